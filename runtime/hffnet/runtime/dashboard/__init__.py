"""The live view: what the person at the microscope looks at, and HTTP for programs.

It runs in a process of its own (``server``), so that nothing it does holds classification up: the run hands over
previews and figures without waiting (``live_view``), everything else the view reads from the records file itself. The
two talk over one socket (``wire``). Importing this package needs nothing; the process needs the extra ``dashboard``.
"""

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765
