/* Which symbols leave the library: everything else is hidden. */
#ifndef HFFNET_EXPORT_H
#define HFFNET_EXPORT_H

#if defined(__GNUC__)
#define HFFNET_API __attribute__((visibility("default")))
#else
#define HFFNET_API
#endif

#endif
