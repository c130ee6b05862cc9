#include "sources/address.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <functional>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "attempt.hpp"

namespace hffnet::sources {
namespace {

using Setters = std::map<std::string, std::function<bool(const std::string&)>>;

int digit_of(char letter) {
  if (letter >= '0' && letter <= '9') return letter - '0';
  if (letter >= 'a' && letter <= 'f') return letter - 'a' + 10;
  return letter >= 'A' && letter <= 'F' ? letter - 'A' + 10 : -1;
}

std::string unquoted(std::string_view text, bool plus_is_space) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit_of(text[i + 1]) >= 0 && digit_of(text[i + 2]) >= 0) {
      plain += static_cast<char>(digit_of(text[i + 1]) * 16 + digit_of(text[i + 2]));
      i += 2;
    } else {
      plain += plus_is_space && text[i] == '+' ? ' ' : text[i];
    }
  }
  return plain;
}

template <class T>
bool is_number(const std::string& text, T& value, T least, T most) {
  T read{};
  const auto end = std::from_chars(text.data(), text.data() + text.size(), read);
  if (end.ec != std::errc() || end.ptr != text.data() + text.size() || !(read >= least && read <= most)) return false;
  value = read;
  return true;
}

// Setters of values; each says whether the text can be one.
auto seconds(double& value, double least, double most) {
  return [&value, least, most](const std::string& text) { return is_number(text, value, least, most); };
}

auto seconds(std::optional<double>& value, double least, double most) {
  return [&value, least, most](const std::string& text) { return is_number(text, value.emplace(), least, most); };
}

auto whole(std::optional<int>& value) {
  return [&value](const std::string& text) { return is_number(text, value.emplace(), 1, 65536); };
}

bool is_yes_or_no(std::string text, bool& value) {
  for (char& letter : text) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  const auto is_one_of = [&](std::initializer_list<std::string_view> words) {
    return std::find(words.begin(), words.end(), text) != words.end();
  };
  const bool yes = is_one_of({"1", "true", "t", "yes", "y", "on"});
  const bool no = is_one_of({"0", "false", "f", "no", "n", "off"});
  if (yes || no) value = yes;
  return yes || no;
}

Status take_options(const std::string& name, std::string_view query, const Setters& setters) {
  while (!query.empty()) {
    const std::size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    const std::size_t middle = pair.find('=');
    const std::string key = unquoted(pair.substr(0, middle), true);
    const std::string value = middle == std::string_view::npos ? "" : unquoted(pair.substr(middle + 1), true);
    const auto setter = setters.find(key);
    if (middle != std::string_view::npos && setter != setters.end() && setter->second(value)) continue;
    std::string known;
    for (const auto& [option, unused] : setters) known += (known.empty() ? "" : ", ") + option;
    return Failure{Error::kConfig, "source '" + name + "' has the option '" + unquoted(pair, true) +
                                       "', which is not known or cannot be; it takes " + known};
  }
  return Done{};
}

// Without user name and password, wherever a URL stands in it.
std::string without_credentials(std::string text) {
  for (std::size_t mark = text.find("://"); mark != std::string::npos; mark = text.find("://", mark + 3)) {
    const std::size_t end = text.find_first_of("/@ \t\n", mark + 3);
    if (end != std::string::npos && text[end] == '@') text.erase(mark + 3, end - mark - 2);
  }
  return text;
}

// Without needless slashes and dots, as pathlib. Two dots stay: behind a link they are not what they seem.
std::filesystem::path plain_path(const std::filesystem::path& path) {
  std::filesystem::path plain;
  for (const auto& part : path) {
    if (!part.empty() && part != ".") plain /= part;
  }
  return plain;
}

Result<Address> folder_from(const std::string& uri, std::string_view rest, bool has_options) {
  const std::size_t mark = has_options ? std::min(rest.find('?'), rest.size()) : rest.size();
  FolderAddress address{has_options ? unquoted(rest.substr(0, mark), false) : std::string(rest), {}};
  FolderOptions& options = address.options;
  constexpr double kHour = 3600.0, kDay = 86400.0;
  ATTEMPT_DONE(
      take_options(uri, mark < rest.size() ? rest.substr(mark + 1) : "",
                   {{"pattern", [&](const std::string& text) { return !patterns_in(options.pattern = text).empty(); }},
                    {"recursive", [&](const std::string& text) { return is_yes_or_no(text, options.recursive); }},
                    {"poll_s", seconds(options.poll_s, 0.01, kHour)},
                    {"events", [&](const std::string& text) { return is_yes_or_no(text, options.events); }},
                    {"settle_s", seconds(options.settle_s, 0.0, kHour)},
                    {"patience_s", seconds(options.patience_s, 0.0, kDay)},
                    {"sidecar_s", seconds(options.sidecar_s, 0.0, kHour)}}));
  std::error_code error;
  const bool is_name = address.folder.find('\0') == std::string::npos;
  if (!is_name || !std::filesystem::is_directory(address.folder, error)) {
    return Failure{Error::kSource,
                   address.folder + " is not a folder that can be watched; create it or correct the path"};
  }
  address.folder = plain_path(std::filesystem::absolute(address.folder, error)).string();
  return Address(std::move(address));
}

Result<Address> live_from(const std::string& scheme, const std::string& uri) {
  const std::size_t mark = std::min(uri.find(scheme == "v4l2" ? '?' : '#'), uri.size());
  const std::string whole_target = uri.substr(0, mark);
  const bool is_url = scheme == "rtsp" || scheme == "rtsps";
  LiveAddress address{
      scheme, is_url ? whole_target : whole_target.substr(scheme.size() + 1), without_credentials(whole_target), {}};
  LiveOptions& options = address.options;
  constexpr double kTick = 1e-3, kHour = 3600.0;
  ATTEMPT_DONE(take_options(
      address.name, mark < uri.size() ? std::string_view(uri).substr(mark + 1) : "",
      {{"open_timeout_s", seconds(options.open_timeout_s, kTick, kHour)},
       {"stall_s", seconds(options.stall_s, kTick, kHour)},
       {"read_timeout_s", seconds(options.read_timeout_s, kTick, kHour)},
       {"max_age_s", seconds(options.max_age_s, kTick, kHour)},
       {"width", whole(options.width)},
       {"height", whole(options.height)},
       {"fps", [&](const std::string& text) { return is_number(text, options.fps.emplace(), 1e-3, 1000.0); }}}));
  if (address.target.empty()) return Failure{Error::kConfig, "source '" + uri + "' names nothing to open"};
  return Address(std::move(address));
}

}  // namespace

std::vector<std::string> patterns_in(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t start = 0; start <= text.size();) {
    const std::size_t end = std::min(text.find(',', start), text.size());
    std::string part = text.substr(start, end - start);
    part.erase(0, std::min(part.find_first_not_of(" \t"), part.size()));
    part.erase(part.find_last_not_of(" \t") + 1);
    if (!part.empty()) parts.push_back(std::move(part));
    start = end + 1;
  }
  return parts;
}

Result<Address> address_from_uri(const std::string& uri) {
  std::error_code error;
  if (std::filesystem::is_directory(uri, error)) return folder_from(uri, uri, false);
  const std::size_t colon = uri.find(':');
  const std::string scheme = colon == std::string::npos ? "" : uri.substr(0, colon);
  if (scheme == "dir") return folder_from(uri, std::string_view(uri).substr(colon + 1), true);
  for (const char* live : {"v4l2", "rtsp", "rtsps", "gst"}) {
    if (scheme == live) return live_from(scheme, uri);
  }
  return Failure{Error::kConfig, "source '" + without_credentials(uri) +
                                     "' is not a folder and has no known scheme; expected a folder, dir:FOLDER, "
                                     "v4l2:/dev/v4l/by-id/…, rtsp://… or gst:PIPELINE (single files: "
                                     "hffnet-classify-cpp; the other sources are those of the Python runtime)"};
}

}  // namespace hffnet::sources
