#include "frames/metadata.hpp"

#include <algorithm>
#include <array>
#include <string>

#include "frames/text.hpp"

namespace hffnet {
namespace {

using Fields = std::map<TextView, TextView>;
using Units = std::map<TextView, double>;

const Units kMetres{{U"fm", 1e-15}, {U"pm", 1e-12}, {U"nm", 1e-9}, {U"um", 1e-6},
                    {U"mm", 1e-3},  {U"cm", 1e-2},  {U"m", 1.0},   {U"km", 1e3}};
const Units kVolts{{U"mV", 1e-3}, {U"V", 1.0}, {U"Volt", 1.0}, {U"kV", 1e3}, {U"KV", 1e3}, {U"MV", 1e6}};
const Units kNanometres{{U"", 1.0}, {U"nm", 1.0}};

TextView value_of(const Fields& fields, TextView key) {
  const auto found = fields.find(key);
  return found == fields.end() ? TextView{} : found->second;
}

// The first of the values that is not empty.
TextView first_of(TextView one, TextView other) {
  return one.empty() ? other : one;
}

Text joined(TextView one, TextView other) {
  return Text(one) + U" " + Text(other);
}

// A number with a unit, in metres or volts; nothing where the unit is not one of `units`.
std::optional<double> measured(TextView text, const Units& units) {
  const auto quantity = quantity_of(text);
  if (!quantity) return std::nullopt;
  TextView unit = quantity->unit;
  const bool foreign = std::any_of(unit.begin(), unit.end(), [](char32_t c) { return c >= 0x80; });
  // The micro sign has two code points, and is often corrupted on its way.
  if (!units.contains(unit) && foreign && unit.back() == 'm') unit = U"um";
  const auto factor = units.find(unit);
  if (factor == units.end()) return std::nullopt;
  return rounded(quantity->value * factor->second, 12);
}

std::optional<double> scaled(std::optional<double> value, double factor) {
  if (!value) return std::nullopt;
  return rounded(*value * factor, 9);
}

// Micrometres per pixel where the value is one a microscope can have, and where it was read.
void set_pixel_size(Acquisition& acquisition, std::optional<double> metres, const std::string& source) {
  if (!metres || *metres * 1e6 < 1e-6 || *metres * 1e6 > 1e4) return;
  acquisition.pixel_size_um = scaled(metres, 1e6);
  acquisition.pixel_size_source = source;
}

Described described_from_fei(TextView text, std::size_t stored_width) {
  const auto ini = sections_of(text);
  const auto section = [&](TextView name) {
    const auto found = ini.find(name);
    return found == ini.end() ? Fields{} : found->second;
  };
  const Fields beams = section(U"Beam"), scan = section(U"Scan"), image = section(U"Image"), user = section(U"User");
  const TextView beam = beams.contains(U"Beam") ? value_of(beams, U"Beam") : TextView(U"EBeam");
  const Fields named = section(beam);
  const Fields optics = named.empty() ? section(U"EBeam") : named;
  const auto width = whole_of(value_of(image, U"ResolutionX")), height = whole_of(value_of(image, U"ResolutionY"));
  std::string source = "FEI Scan.PixelWidth";
  auto metres = number_of(value_of(scan, U"PixelWidth"));
  const auto field_width = number_of(value_of(optics, U"HFW"));
  if (!metres && width.value_or(0) > 0 && field_width) {
    metres = *field_width / static_cast<double>(*width);
    source = "FEI " + utf8_from(beam) + ".HFW / Image.ResolutionX";
  }
  if (width.value_or(0) > 0 && *width != stored_width) metres.reset();
  Described described;
  Acquisition& about = described.acquisition;
  about.vendor = "FEI/Thermo";
  about.instrument = printable(value_of(section(U"System"), U"SystemType"));
  set_pixel_size(about, metres, source);
  about.high_voltage_kv = scaled(number_of(first_of(value_of(optics, U"HV"), value_of(beams, U"HV"))), 1e-3);
  about.working_distance_mm = scaled(number_of(value_of(optics, U"WD")), 1e3);
  about.detector = printable(value_of(section(U"Detectors"), U"Name"));
  about.operator_name = printable(value_of(user, U"User"));
  about.acquired_at = printable(joined(value_of(user, U"Date"), value_of(user, U"Time")));
  if (height.value_or(0) > 0 && width.value_or(0) > 0) described.picture_size = {*height, *width};
  return described;
}

// Two upper-case letters, a low line, 1 to 60 upper-case letters, digits or low lines.
bool is_zeiss_key(TextView text) {
  const auto upper = [](char32_t c) { return c >= 'A' && c <= 'Z'; };
  const auto rest = [&](char32_t c) { return upper(c) || (c >= '0' && c <= '9') || c == '_'; };
  return text.size() >= 4 && text.size() <= 63 && upper(text[0]) && upper(text[1]) && text[2] == '_' &&
         std::all_of(text.begin() + 3, text.end(), rest);
}

Described described_from_zeiss(TextView text, std::size_t stored_width) {
  const std::vector<TextView> lines = lines_of(text);
  Fields found;
  for (std::size_t i = 0; i + 1 < lines.size(); ++i) {
    const TextView key = stripped(lines[i]), line = lines[i + 1];
    if (!is_zeiss_key(key)) continue;
    const std::size_t equals = line.find(U'=');
    const std::size_t mark = equals != TextView::npos ? equals : line.find(U':');  // date and time lines use ':'
    found[key] = mark == TextView::npos ? TextView{} : stripped(line.substr(mark + 1));
  }
  std::optional<double> metres;
  std::string source;
  for (const TextView key : {TextView(U"AP_IMAGE_PIXEL_SIZE"), TextView(U"AP_PIXEL_SIZE")}) {
    metres = measured(value_of(found, key), kMetres);
    source = "Zeiss " + utf8_from(key);
    if (metres.value_or(0.0) != 0.0) break;
  }
  if (metres.value_or(0.0) == 0.0 && lines.size() > 3) {
    metres = number_of(lines[3]);
    if (metres) metres = *metres * 1024.0 / static_cast<double>(stored_width);
    source = "Zeiss header line 4 x 1024 / width";
  }
  Described described;
  Acquisition& about = described.acquisition;
  about.vendor = "Zeiss";
  about.instrument = printable(first_of(value_of(found, U"DP_SEM"), value_of(found, U"SV_SERIAL_NUMBER")));
  set_pixel_size(about, metres, source);
  about.high_voltage_kv =
      scaled(measured(first_of(value_of(found, U"AP_ACTUALKV"), value_of(found, U"AP_MANUALKV")), kVolts), 1e-3);
  about.working_distance_mm = scaled(measured(value_of(found, U"AP_WD"), kMetres), 1e3);
  about.detector = printable(first_of(value_of(found, U"DP_DETECTOR_CHANNEL"), value_of(found, U"DP_DETECTOR_TYPE")));
  about.operator_name = printable(first_of(value_of(found, U"SV_OPERATOR"), value_of(found, U"SV_USER_NAME")));
  about.acquired_at = printable(joined(value_of(found, U"AP_DATE"), value_of(found, U"AP_TIME")));
  return described;
}

constexpr std::array<TextView, 12> kTescanKeys{
    U"PixelSizeX", U"HV",          U"AcceleratorVoltage", U"WD",           U"Detector", U"Detector0",
    U"Device",     U"DeviceModel", U"UserName",           U"FullUserName", U"Date",     U"Time"};

// `Key=Value` pairs that may stand among binary bytes: a known key that no letter or digit precedes, and what follows
// up to a control character, at most 120 characters.
Fields tescan_fields(TextView text) {
  const auto is_word = [](char32_t c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
  };
  Fields found;
  for (std::size_t mark = text.find(U'='); mark != TextView::npos; mark = text.find(U'=', mark + 1)) {
    std::size_t begin = mark;
    while (begin > 0 && is_word(text[begin - 1])) --begin;
    const TextView key = text.substr(begin, mark - begin);
    if (key != U"ImageStripSize" && std::find(kTescanKeys.begin(), kTescanKeys.end(), key) == kTescanKeys.end())
      continue;
    std::size_t end = mark + 1;
    while (end < text.size() && end - mark <= 120 && text[end] >= 0x20) ++end;
    found[key] = text.substr(mark + 1, end - mark - 1);
    mark = end - 1;
  }
  return found;
}

Described described_from_tescan(TextView text) {
  const Fields found = tescan_fields(text);
  Described described;
  Acquisition& about = described.acquisition;
  about.vendor = "TESCAN";
  about.instrument = printable(joined(value_of(found, U"Device"), value_of(found, U"DeviceModel")));
  set_pixel_size(about, number_of(value_of(found, U"PixelSizeX")), "TESCAN PixelSizeX");
  about.high_voltage_kv =
      scaled(number_of(first_of(value_of(found, U"HV"), value_of(found, U"AcceleratorVoltage"))), 1e-3);
  about.working_distance_mm = scaled(number_of(value_of(found, U"WD")), 1e3);
  about.detector = printable(first_of(value_of(found, U"Detector"), value_of(found, U"Detector0")));
  about.operator_name = printable(first_of(value_of(found, U"FullUserName"), value_of(found, U"UserName")));
  about.acquired_at = printable(joined(value_of(found, U"Date"), value_of(found, U"Time")));
  described.bar_rows = whole_of(value_of(found, U"ImageStripSize"));
  return described;
}

// `$CM_KEY value` and `$$SM_KEY value` lines.
Fields jeol_fields(TextView text) {
  Fields found;
  for (TextView line : lines_of(text)) {
    if (line.empty() || line.front() != '$') continue;
    line.remove_prefix(line.size() > 1 && line[1] == '$' ? 2 : 1);
    const std::size_t gap = line.find_first_of(U" \t");
    if (gap == TextView::npos || gap > 43 || !is_zeiss_key(line.substr(0, gap))) continue;
    const std::size_t value = line.find_first_not_of(U" \t", gap);
    found[line.substr(0, gap)] = value == TextView::npos ? TextView{} : line.substr(value, 120);
  }
  return found;
}

// "1280 960" or "1280x960" as (height, width).
std::optional<std::pair<std::size_t, std::size_t>> size_from(TextView text) {
  const TextView bare = stripped(text);
  const std::size_t gap = bare.find_first_of(U" x");
  if (gap == TextView::npos) return std::nullopt;
  const std::size_t second = bare.find_first_not_of(U" x", gap);
  if (second == TextView::npos || bare.find_first_of(U" x", second) != TextView::npos) return std::nullopt;
  const auto width = whole_of(bare.substr(0, gap)), height = whole_of(bare.substr(second));
  if (width.value_or(0) == 0 || height.value_or(0) == 0) return std::nullopt;
  return std::pair{*height, *width};
}

Described described_from_jeol(TextView text) {
  const Fields found = jeol_fields(text);
  const auto marker = measured(value_of(found, U"SM_MICRON_MARKER"), kMetres);
  const auto bar = number_of(value_of(found, U"SM_MICRON_BAR"));
  Described described;
  Acquisition& about = described.acquisition;
  about.vendor = "JEOL";
  about.instrument = printable(value_of(found, U"CM_INSTRUMENT"));
  if (marker.value_or(0.0) != 0.0 && bar.value_or(0.0) != 0.0) {
    set_pixel_size(about, *marker / *bar, "JEOL SM_MICRON_MARKER / SM_MICRON_BAR");
  }
  about.high_voltage_kv = number_of(value_of(found, U"CM_ACCEL_VOLT"));
  about.working_distance_mm = number_of(value_of(found, U"SM_WD"));
  about.detector = printable(value_of(found, U"CM_SIGNAL"));
  about.operator_name = printable(value_of(found, U"CM_OPERATOR"));
  about.acquired_at = printable(joined(value_of(found, U"CM_DATE"), value_of(found, U"CM_TIME")));
  described.picture_size = size_from(value_of(found, U"CM_FULL_SIZE"));
  return described;
}

Described described_from_hitachi(TextView text, std::size_t stored_width) {
  const auto sections = sections_of(text);
  const auto section = sections.find(U"SemImageFile");
  const Fields found = section == sections.end() ? Fields{} : section->second;
  auto metres = scaled(measured(value_of(found, U"PixelSize"), kNanometres), 1e-9);
  const auto stored = size_from(value_of(found, U"DataSize"));
  if (stored && stored->second != stored_width) metres.reset();
  Described described;
  Acquisition& about = described.acquisition;
  about.vendor = "Hitachi";
  about.instrument = printable(value_of(found, U"InstructName"));
  set_pixel_size(about, metres, "Hitachi PixelSize");
  about.high_voltage_kv = scaled(measured(value_of(found, U"AcceleratingVoltage"), kVolts), 1e-3);
  about.working_distance_mm = scaled(measured(value_of(found, U"WorkingDistance"), kMetres), 1e3);
  about.detector = printable(value_of(found, U"SignalName"));
  about.operator_name = printable(value_of(found, U"UserName"));
  about.acquired_at = printable(joined(value_of(found, U"Date"), value_of(found, U"Time")));
  return described;
}

}  // namespace

Described described_from_tags(const std::map<unsigned, Bytes>& tags, std::size_t stored_width) {
  for (const unsigned code : {34682U, 34680U, 34118U, 50431U}) {
    const auto tag = tags.find(code);
    if (tag == tags.end()) continue;
    const Text text = text_from_bytes(tag->second);
    if (code == 34118U) return described_from_zeiss(text, stored_width);
    return code == 50431U ? described_from_tescan(text) : described_from_fei(text, stored_width);
  }
  return {};
}

Described described_from_sidecar(Bytes data, std::size_t stored_width) {
  const Text text = text_from_bytes(data);
  const TextView head = TextView(text).substr(0, 4096);
  const auto says = [&](TextView word) { return head.find(word) != TextView::npos; };
  if (says(U"$CM_") || says(U"$$SM_")) return described_from_jeol(text);
  if (says(U"[SemImageFile]")) return described_from_hitachi(text, stored_width);
  if (says(U"[MAIN]") || says(U"PixelSizeX=")) return described_from_tescan(text);
  return {};
}

}  // namespace hffnet
