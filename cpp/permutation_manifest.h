// The manifest of an external search: what its folder holds, as JSON, replaced whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace rankone::cpu {

/// Partitions of a layer, by the top bits of the hash.
constexpr int kExternalPartitionBits = 4;
constexpr std::size_t kExternalPartitions = std::size_t{1} << kExternalPartitionBits;
constexpr const char* kManifestName = "manifest.json";

struct Manifest {
  std::uint64_t fingerprint = 0;
  std::int64_t words = 1;
  bool complete = false;
  bool keeps_layers = true;
  std::vector<std::int64_t> layer_sizes;
  std::vector<std::int64_t> partition_sizes;  // (levels, partitions)
  std::int64_t joined_level = -1;             // directed: the layers up to here lie joined, too
};

/// The folder's manifest, if there is one; throws Error when it cannot be read as one.
std::optional<Manifest> read_manifest(const std::filesystem::path& folder);
void write_manifest(const std::filesystem::path& folder, const Manifest& manifest, bool durable);

}  // namespace rankone::cpu
