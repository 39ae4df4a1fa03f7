// Writing and reading the manifest. The reader takes what the writer wrote and nothing else.
#include "permutation_manifest.h"

#include <charconv>
#include <string>
#include <string_view>
#include <system_error>

#include "permutation_row_files.h"

namespace rankone::cpu {
namespace {

std::string numbers(const std::vector<std::int64_t>& values) {
  std::string text = "[";
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(values[i]);
  }
  return text + "]";
}

std::string to_json(const Manifest& manifest) {
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  return std::string("{\n  \"format\": \"rankone permutation search 1\",\n") + "  \"graph\": \"" +
         std::to_string(manifest.fingerprint) + "\",\n" +
         "  \"words\": " + std::to_string(manifest.words) + ",\n" +
         "  \"partitions\": " + std::to_string(kExternalPartitions) + ",\n" +
         "  \"complete\": " + flag(manifest.complete) + ",\n" +
         "  \"keeps_layers\": " + flag(manifest.keeps_layers) + ",\n" +
         "  \"joined_level\": " + std::to_string(manifest.joined_level) + ",\n" +
         "  \"level\": " + std::to_string(manifest.layer_sizes.size() - 1) + ",\n" +
         "  \"layer_sizes\": " + numbers(manifest.layer_sizes) + ",\n" +
         "  \"partition_sizes\": " + numbers(manifest.partition_sizes) + "\n}\n";
}

/// What follows `"key": ` in a manifest that to_json wrote.
std::string_view field(std::string_view text, std::string_view key) {
  std::string quoted(1, '"');
  quoted.append(key).append("\": ");
  const std::size_t at = text.find(quoted);
  if (at == std::string_view::npos) {
    throw Error("scratch_dir: the manifest has no field \"" + std::string(key) + "\"");
  }
  return text.substr(at + quoted.size());
}

template <typename Integer>
Integer parse_integer(std::string_view& text) {
  Integer value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc())
    throw Error("scratch_dir: the manifest holds no number where one belongs");
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

std::vector<std::int64_t> parse_list(std::string_view text) {
  std::vector<std::int64_t> values;
  text.remove_prefix(1);
  while (!text.empty() && text[0] != ']') {
    if (text[0] == ',' || text[0] == ' ') {
      text.remove_prefix(1);
    } else {
      values.push_back(parse_integer<std::int64_t>(text));
    }
  }
  return values;
}

Manifest from_json(std::string_view text) {
  Manifest manifest;
  std::string_view graph = field(text, "graph").substr(1);
  manifest.fingerprint = parse_integer<std::uint64_t>(graph);
  std::string_view words = field(text, "words");
  manifest.words = parse_integer<std::int64_t>(words);
  manifest.complete = field(text, "complete").starts_with("true");
  manifest.keeps_layers = field(text, "keeps_layers").starts_with("true");
  std::string_view joined = field(text, "joined_level");
  manifest.joined_level = parse_integer<std::int64_t>(joined);
  manifest.layer_sizes = parse_list(field(text, "layer_sizes"));
  manifest.partition_sizes = parse_list(field(text, "partition_sizes"));
  if (manifest.layer_sizes.empty() ||
      manifest.partition_sizes.size() != manifest.layer_sizes.size() * kExternalPartitions) {
    throw Error("scratch_dir: the manifest's layer and partition sizes do not agree");
  }
  return manifest;
}

}  // namespace

std::optional<Manifest> read_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  if (!fs::exists(path)) return std::nullopt;
  const File file = open_file(path, "rb");
  std::string text(static_cast<std::size_t>(fs::file_size(path)), ' ');
  if (std::fread(text.data(), 1, text.size(), file.get()) != text.size()) fail("read", path);
  return from_json(text);
}

void write_manifest(const fs::path& folder, const Manifest& manifest, bool durable) {
  const std::string text = to_json(manifest);
  const fs::path path = folder / kManifestName, temporary = folder / "manifest.json.part";
  File file = open_file(temporary, "wb");
  if (std::fwrite(text.data(), 1, text.size(), file.get()) != text.size()) fail("write", temporary);
#if defined(__unix__) || defined(__APPLE__)
  if (durable && fsync(fileno(file.get())) != 0) fail("write", temporary);
#endif
  if (std::fclose(file.release()) != 0) fail("write", temporary);
  fs::rename(temporary, path);
}

}  // namespace rankone::cpu
