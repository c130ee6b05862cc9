// hffnet-capture-cpp: opens one device through GStreamer and puts frame after frame into shared memory until it is
// killed. hffnet-run-cpp starts it; its arguments are those of hffnet.runtime.sources.capture: descriptors of memory,
// messages and requests (-1), bytes per slot, address.
#include <fcntl.h>
#include <gst/app/gstappsink.h>
#include <gst/gst.h>
#include <gst/video/video.h>
#include <poll.h>
#include <sys/prctl.h>

#include <charconv>
#include <csignal>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "sources/address.hpp"
#include "sources/capture_link.hpp"
#include "sources/stop.hpp"

namespace {

using hffnet::Depth;
using hffnet::sources::Kind;
using hffnet::sources::LiveAddress;
using hffnet::sources::Message;

constexpr GstClockTime kTick = 200 * GST_MSECOND;

template <class T, void (*release)(T*)>
using Owned = std::unique_ptr<T, decltype([](T* held) { release(held); })>;

void unref_object(GstElement* element) {
  gst_object_unref(element);
}
void unref_bus(GstBus* bus) {
  gst_object_unref(bus);
}
using Element = Owned<GstElement, unref_object>;
using Bus = Owned<GstBus, unref_bus>;
using BusMessage = Owned<GstMessage, gst_message_unref>;
using Sample = Owned<GstSample, gst_sample_unref>;
using GError_ = Owned<GError, g_error_free>;

// Grey as the device gives it, 8 or 16 bit; anything else is made 8-bit grey. Two buffers: one taken, one newest.
constexpr const char* kSink =
    " ! videoconvert ! appsink name=hffnet sync=false max-buffers=2 drop=true "
    "caps=video/x-raw,format=(string){GRAY8,GRAY16_LE}";

// Names and numbers of the address are set as properties, never pasted into the text of the pipeline.
std::string pipeline_text(const LiveAddress& address) {
  if (address.scheme == "gst") return address.target + kSink;
  if (address.scheme != "v4l2") return std::string("rtspsrc name=device ! decodebin") + kSink;
  return std::string("v4l2src name=device ! capsfilter name=wanted ! decodebin") + kSink;
}

// Raw or compressed pictures of the size and rate asked for.
void want_size_and_rate(GstElement* pipeline, const LiveAddress& address) {
  const Element filter(gst_bin_get_by_name(GST_BIN(pipeline), "wanted"));
  const auto& options = address.options;
  if (!filter || (!options.width && !options.height && !options.fps)) return;
  GstCaps* caps = gst_caps_from_string("video/x-raw;image/jpeg");
  if (options.width) gst_caps_set_simple(caps, "width", G_TYPE_INT, *options.width, nullptr);
  if (options.height) gst_caps_set_simple(caps, "height", G_TYPE_INT, *options.height, nullptr);
  if (options.fps) {
    int top = 0, bottom = 1;
    gst_util_double_to_fraction(*options.fps, &top, &bottom);
    gst_caps_set_simple(caps, "framerate", GST_TYPE_FRACTION, top, bottom, nullptr);
  }
  g_object_set(filter.get(), "caps", caps, nullptr);
  gst_caps_unref(caps);
}

// The last frame's sentence, with what is usually missing.
std::string sentence(const GError& error) {
  std::string text = error.message;
  if (error.domain == GST_PARSE_ERROR && error.code == GST_PARSE_ERROR_NO_SUCH_ELEMENT) {
    text += " (cameras and streams need gstreamer1.0-plugins-base and gstreamer1.0-plugins-good)";
  }
  return text;
}

// What the pipeline complains of; empty where it does not.
std::string complaint(GstElement* pipeline) {
  const Bus bus(gst_element_get_bus(pipeline));
  const BusMessage message(gst_bus_pop_filtered(bus.get(), GST_MESSAGE_ERROR));
  if (!message) return "";
  GError* error = nullptr;
  gst_message_parse_error(message.get(), &error, nullptr);
  const GError_ held(error);
  return sentence(*error);
}

class Camera {
 public:
  explicit Camera(Element pipeline)
      : pipeline_(std::move(pipeline)), sink_(gst_bin_get_by_name(GST_BIN(pipeline_.get()), "hffnet")) {}
  Camera(const Camera&) = delete;
  Camera& operator=(const Camera&) = delete;
  // Only on an orderly end; a hanging driver is the reason why this process is killed instead.
  ~Camera() { gst_element_set_state(pipeline_.get(), GST_STATE_NULL); }

  bool play() { return gst_element_set_state(pipeline_.get(), GST_STATE_PLAYING) != GST_STATE_CHANGE_FAILURE; }
  std::string why() const {
    const std::string told = complaint(pipeline_.get());
    return told.empty() ? "the pipeline cannot be started" : told;
  }

  // Frames into slots until the device ends or fails; the last message.
  Message run(hffnet::sources::Slots& slots, int messages) {
    for (std::uint64_t index = 0;;) {
      const Sample sample(gst_app_sink_try_pull_sample(GST_APP_SINK(sink_.get()), kTick));
      if (const std::string told = complaint(pipeline_.get()); !told.empty()) return failed(told);
      if (!sample && gst_app_sink_is_eos(GST_APP_SINK(sink_.get()))) return Message{Kind::kEnded};
      if (!sample) continue;
      Message message = frame(sample.get(), slots, index);
      if (!send(messages, message) || message.kind == Kind::kFailed) return message;
      index += message.kind == Kind::kFrame ? 1 : 0;
    }
  }

  static Message failed(std::string text) {
    Message message{Kind::kFailed};
    message.text = std::move(text);
    return message;
  }

 private:
  static Message frame(GstSample* sample, hffnet::sources::Slots& slots, std::uint64_t index) {
    GstVideoInfo info;
    GstVideoFrame mapped;
    GstBuffer* buffer = gst_sample_get_buffer(sample);
    if (gst_video_info_from_caps(&info, gst_sample_get_caps(sample)) == FALSE ||
        gst_video_frame_map(&mapped, &info, buffer, GST_MAP_READ) == FALSE) {
      return Message{Kind::kNothing};
    }
    const auto height = static_cast<std::uint32_t>(GST_VIDEO_FRAME_HEIGHT(&mapped));
    const auto width = static_cast<std::uint32_t>(GST_VIDEO_FRAME_WIDTH(&mapped));
    const bool deep = GST_VIDEO_FRAME_FORMAT(&mapped) == GST_VIDEO_FORMAT_GRAY16_LE;
    const hffnet::GreyView view{GST_VIDEO_FRAME_PLANE_DATA(&mapped, 0), deep ? Depth::kUint16 : Depth::kUint8, height,
                                width, static_cast<std::size_t>(GST_VIDEO_FRAME_PLANE_STRIDE(&mapped, 0))};
    const auto slot = slots.write(view, index);
    gst_video_frame_unmap(&mapped);
    if (!slot) {
      return failed("a frame of " + std::to_string(width) + "x" + std::to_string(height) +
                    " is too large to be handed over");
    }
    Message message{Kind::kFrame, *slot, view.depth, height, width, index};
    message.captured_ns = static_cast<std::uint64_t>(hffnet::sources::monotonic_s() * 1e9);
    return message;
  }

  Element pipeline_;
  Element sink_;
};

Message capture(const LiveAddress& address, hffnet::sources::Slots& slots, int messages) {
  GError* error = nullptr;
  Element pipeline(gst_parse_launch_full(pipeline_text(address).c_str(), nullptr, GST_PARSE_FLAG_FATAL_ERRORS, &error));
  if (!pipeline) {
    const GError_ held(error);
    return Camera::failed("the pipeline cannot be built: " + sentence(*error));
  }
  if (const Element device(gst_bin_get_by_name(GST_BIN(pipeline.get()), "device")); device && address.scheme != "gst") {
    g_object_set(device.get(), address.scheme == "v4l2" ? "device" : "location", address.target.c_str(), nullptr);
    if (address.scheme != "v4l2") g_object_set(device.get(), "latency", 0U, nullptr);
    want_size_and_rate(pipeline.get(), address);
  }
  Camera camera(std::move(pipeline));
  if (!camera.play()) return Camera::failed(camera.why());
  send(messages, Message{Kind::kOpened});
  return camera.run(slots, messages);
}

// Whether whoever started this process still listens: it may have ended before this one asked to end with it.
bool is_heard(int messages) {
  pollfd asked{messages, 0, 0};
  return ::poll(&asked, 1, 0) == 0 || (asked.revents & (POLLERR | POLLNVAL)) == 0;
}

bool is_number(const char* text, long& value) {
  const auto read = std::from_chars(text, text + std::strlen(text), value);
  return read.ec == std::errc() && *read.ptr == '\0';
}

}  // namespace

int main(int argc, char** argv) {
  long memory = -1, messages = -1, requests = -1, slot_bytes = 0;
  const bool good = argc == 6 && is_number(argv[1], memory) && is_number(argv[2], messages) &&
                    is_number(argv[3], requests) && is_number(argv[4], slot_bytes) && slot_bytes > 0;
  if (!good) return 2;
  // It ends with the program that started it; a Ctrl-C goes to the whole group, and when to end is that program's
  // decision.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  if (!is_heard(static_cast<int>(messages))) return 0;
  // GStreamer starts a program that looks at its plugins: it would hold the pipe open after this one has ended.
  for (const long descriptor : {memory, messages}) ::fcntl(static_cast<int>(descriptor), F_SETFD, FD_CLOEXEC);
  hffnet::sources::Slots slots(static_cast<int>(memory), static_cast<std::size_t>(slot_bytes));
  const auto address = hffnet::sources::address_from_uri(argv[5]);
  const auto* live = address.ok() ? std::get_if<LiveAddress>(&address.value()) : nullptr;
  if (!slots.ok() || live == nullptr) return 2;
  gst_init(nullptr, nullptr);
  const Message last = capture(*live, slots, static_cast<int>(messages));
  if (last.kind == Kind::kEnded || last.kind == Kind::kFailed) send(static_cast<int>(messages), last);
  return 0;
}
