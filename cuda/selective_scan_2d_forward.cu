// The forward sweep of the 2D selective scan, and of the 1D scan.
//
// 2D: a block owns one job (segment of columns, batch entry, the channels of a warp) and all rows.
// Warp w holds the states of row w of the current row block in registers and computes column
// s - w at step s; it hands them to warp w + 1 through two slots in shared memory, the last warp to
// the first of the next row block through memory. Row blocks follow one another without draining
// the wavefront: ceil(rows / warps) * columns + warps - 1 steps a job.
// 1D: rows are jobs of their own, one a warp, and nothing is shared.
//
// Every input is read and every output written once, but B and C once per warp of channels; what
// passes between row blocks stays in a buffer of one row a resident block. Blocks take jobs in
// turn, so that the buffer does not grow with the problem.
#include "primitives/async_copy.cuh"
#include "primitives/launch.cuh"
#include "selective_scan_2d_cell.cuh"

namespace rankone::cuda {
namespace {

struct alignas(16) SharedFloats {
  float x[4];
};

/// Floats of a warp's own shared memory: two staged cells, the sums over its lanes, and those of
/// its channels' steps.
template <int kChannels>
__host__ __device__ int warp_floats(const ScanLayout& layout, bool single) {
  return 2 * layout.slot + kChannels * kScratchRow + layout.value_pitch +
         (single ? layout.static_floats : 0);
}

/// Slots of the states handed down: row -1 of the block, then its rows; two steps of them.
template <int kChannels>
__host__ __device__ constexpr int ring_floats(int warps) {
  return 2 * (warps + 1) * kChannels * kWarpSize * 4;
}

/// What the warps of a block share.
template <int kChannels>
__host__ __device__ int block_floats(const ScanLayout& layout, int warps) {
  return ring_floats<kChannels>(warps) + kParameterTableFloats<false, kChannels> +
         layout.static_floats;
}

/// The kernel's parameter: with what the host derives from the arguments, so that it is read from
/// the parameter's memory and takes no registers.
struct ForwardLaunch {
  ScanArguments arguments;
  ScanLayout layout;
};

template <ScanForm kForm, bool kSingle, int kChannels>
__global__ void __launch_bounds__(kMaxScanWarps* kWarpSize, kScanForwardBlocks)
    scan_forward_kernel(__grid_constant__ const ForwardLaunch launched) {
  const ScanArguments& arguments = launched.arguments;
  const ScanLayout& layout = launched.layout;
  constexpr int kLanes = kLaneChannels<kChannels>;
  // The forms with fewer instructions a cell, or more values of their own, read all of A from it.
  constexpr bool kReadsAll = kForm == ScanForm::kNone || kForm == ScanForm::kCompanion;
  constexpr ScanTable kTable = kSingle          ? ScanTable::kNone
                               : kReadsAll      ? ScanTable::kAll
                               : kChannels == 1 ? ScanTable::kInverses
                                                : ScanTable::kInversesAndOthers;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  const int warp = shuffle_idx(warp_id(), 0);
  const ScanLane lane = ScanLane::of<kChannels>(arguments.state_lanes);

  float* const shared = shared_memory<SharedFloats>().x;
  auto* const ring = reinterpret_cast<float4*>(shared);
  float* const own = shared + (kSingle ? 0 : block_floats<kChannels>(layout, warps)) +
                     warp * warp_floats<kChannels>(layout, kSingle);
  float* const slots = own;
  float* const scratch = own + 2 * layout.slot;
  float* const step_sums = scratch + kChannels * kScratchRow;
  float* const table = shared + ring_floats<kChannels>(warps);
  float* const static_vectors =
      kSingle ? step_sums + layout.value_pitch : table + kParameterTableFloats<false, kChannels>;
  const auto ring_at = [&](int step, int row) {
    return ring + ((step % 2) * (warps + 1) + row) * (kChannels * kWarpSize) + lane_id();
  };
  // The last row of a row block, read and written by this block only.
  const auto buffered = [&](int column) {
    return reinterpret_cast<float4*>(arguments.row_buffer) +
           (static_cast<std::int64_t>(blockIdx.x) * (arguments.segment_columns + 1) + column) *
               (kChannels * kWarpSize) +
           lane_id();
  };
  const auto sync = [] {
    if constexpr (kSingle) {
      warp_sync();
    } else {
      block_sync();
    }
  };

  const int job_step = static_cast<int>(gridDim.x) * (kSingle ? warps : 1);
  int job = kSingle ? static_cast<int>(blockIdx.x) * warps + warp : static_cast<int>(blockIdx.x);
  for (; job < arguments.jobs; job += job_step) {
    ScanLine job_line;
    int index = job;
    job_line.channel = index % arguments.channel_blocks * layout.warp_channels;
    index /= arguments.channel_blocks;
    int first_row = warp;
    if constexpr (kSingle) {
      first_row = index % arguments.rows;
      index /= arguments.rows;
    }
    job_line.batch = index % arguments.batch;
    job_line.segment = index / arguments.batch;
    job_line.first = job_line.segment * arguments.segment_columns;
    job_line.length = min(arguments.segment_columns, arguments.columns - job_line.first);
    const bool leads = !kSingle && arguments.lead_column && job_line.segment > 0;
    if (leads) {
      --job_line.first;
      ++job_line.length;
    }
    ScanLine line = job_line;
    const ScanGrid grid(kSingle, warps, arguments.rows, line.length, 1);
    const auto row_of = [&](const ScanPosition& position) {
      return first_row + position.block * grid.warps;
    };
    const auto is_active = [&](const ScanPosition& position) {
      return position.block < grid.row_blocks && position.column >= 0 &&
             position.column < line.length && row_of(position) < arguments.rows;
    };

    CellStage<kForm, kSingle, kChannels> stage(arguments, layout);
    if constexpr (kSingle) {
      stage.store_static(line, static_vectors, lane_id(), kWarpSize);
    } else {
      stage.store_static(line, static_vectors, static_cast<int>(threadIdx.x), warps * kWarpSize);
    }
    CellVectors<kSingle, kChannels> vectors;
    vectors.start(arguments, line, lane);
    ScanParameters<kForm, kSingle, kChannels, kTable> parameters;
    parameters.load(arguments, line, lane, kSingle || warp == 0 ? table : nullptr);
    CellStates states[kChannels] = {};
    ScanPosition position{0, kSingle ? 0 : -warp};
    if (is_active(position)) {
      stage.prefetch(line, row_of(position), line.first + position.column);
      stage.commit(line, slots);
    }
    sync();

    for (int step = 0; step < grid.steps; ++step) {
      line.batch = opaque(job_line.batch);
      line.channel = opaque(job_line.channel);
      ScanPosition next = position;
      next.advance(grid.pitch);
      const bool active = is_active(position);
      const bool next_active = is_active(next);
      if (next_active) {
        stage.prefetch(line, row_of(next), line.first + next.column);
        if (!kSingle && warp == 0 && next.block > 0) {
          const float4* const source = buffered(next.column);
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            copy_async_16(ring_at(step + 1, 0) + c * kWarpSize, source + c * kWarpSize);
          }
          commit_async();
        }
      }
      if (active) {
        const int row = row_of(position);
        const int column = line.first + position.column;
        const float* const slot = slots + step % 2 * layout.slot;
        std::uint32_t gate[kLanes] = {};
        if (arguments.z.data != nullptr && arguments.y.data != nullptr) {
#pragma unroll
          for (int j = 0; j < kLanes; ++j) {
            if (!stage.is_inside(line, j)) continue;
            gate[j] = load_bits(arguments.z.data,
                                cell_offset(arguments.z, line.batch, row, column) +
                                    stage.channel_of(line, j) * arguments.z.channel_stride,
                                arguments.wide);
          }
        }
        const std::int64_t column_place =
            (static_cast<std::int64_t>(line.segment) * arguments.batch + line.batch) *
                arguments.rows +
            row;
        if (position.column == 0) {
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            const int channel = line.channel + lane.channel + c;
            load_states(arguments, leads ? nullptr : arguments.initial.column_h1, column_place,
                        channel, lane.state, states[c].h1);
            if constexpr (!kSingle) {
              load_states(arguments, leads ? nullptr : arguments.initial.column_h2, column_place,
                          channel, lane.state, states[c].h2);
            }
          }
        }

        CellFactors<kForm, kSingle, kChannels> factors;
        factors.load(slot, layout, lane);
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          const int channel = line.channel + lane.channel + c;
          vectors.load(arguments, layout, lane, slot, static_vectors, c);
          parameters.select(table, c);
          CellStates up{};
          if constexpr (!kSingle) {
            if (row > 0) {
              up = unpack_states(ring_at(step, warp)[c * kWarpSize]);
            } else {
              const std::int64_t place =
                  static_cast<std::int64_t>(line.batch) * arguments.columns + column;
              load_states(arguments, arguments.initial.row_h1, place, channel, lane.state, up.h1);
              load_states(arguments, arguments.initial.row_h2, place, channel, lane.state, up.h2);
            }
          }
          states[c] = advance_states(parameters, factors, vectors, lane, arguments.states, c,
                                     states[c], up);
          if constexpr (!kSingle) {
            const float4 handed = pack_states(states[c]);
            ring_at(step + 1, warp + 1)[c * kWarpSize] = handed;
            if (warp == warps - 1 && position.block + 1 < grid.row_blocks) {
              buffered(position.column)[c * kWarpSize] = handed;
            }
          }
          float sum = vectors.values[kVectorC1].x * states[c].h1[0];
          sum = fmaf(vectors.values[kVectorC1].y, states[c].h1[1], sum);
          if constexpr (!kSingle) {
            sum = fmaf(vectors.values[kVectorC2].x, states[c].h2[0], sum);
            sum = fmaf(vectors.values[kVectorC2].y, states[c].h2[1], sum);
          }
          scratch[c * kScratchRow + lane_id()] = sum;
        }

        const bool is_lead = leads && position.column == 0;
        if (is_lead) {
#pragma unroll
          for (int c = 0; c < kChannels; ++c) states[c].h1[0] = states[c].h1[1] = 0.0f;
        }
        if (position.column + 1 == line.length &&
            (arguments.segment_ends || line.segment + 1 == arguments.segments)) {
          const std::int64_t place =
              arguments.segment_ends ? column_place
                                     : static_cast<std::int64_t>(line.batch) * arguments.rows + row;
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            const int channel = line.channel + lane.channel + c;
            store_states(arguments, arguments.final.column_h1, place, channel, lane.state,
                         states[c].h1);
            if constexpr (!kSingle) {
              store_states(arguments, arguments.final.column_h2, place, channel, lane.state,
                           states[c].h2);
            }
          }
        }
        if (!kSingle && row + 1 == arguments.rows && arguments.final.row_h1 != nullptr) {
          const std::int64_t place =
              static_cast<std::int64_t>(line.batch) * arguments.columns + column;
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            const int channel = line.channel + lane.channel + c;
            store_states(arguments, arguments.final.row_h1, place, channel, lane.state,
                         states[c].h1);
            store_states(arguments, arguments.final.row_h2, place, channel, lane.state,
                         states[c].h2);
          }
        }

        warp_sync();
#pragma unroll
        for (int j = 0; j < kLanes; ++j) {
          if (!stage.is_inside(line, j)) continue;
          const int place = lane_id() + j * kWarpSize;
          if (arguments.y.data != nullptr) {
            const float* const sums = scratch + place % kChannels * kScratchRow +
                                      place / kChannels * arguments.state_lanes;
            float sum = arguments.skip == nullptr ? 0.0f
                                                  : arguments.skip[stage.channel_of(line, j)] *
                                                        slot[kRowX * layout.value_pitch + place];
            for (int i = 0; i < arguments.state_lanes; i += 2) {
              const float2 pair = *reinterpret_cast<const float2*>(sums + i);
              sum += pair.x + pair.y;
            }
            if (arguments.z.data != nullptr) {
              const float z = from_bits(gate[j], arguments.wide, arguments.half);
              sum *= z / (1.0f + expf(-z));
            }
            store_element(arguments.y.data,
                          cell_offset(arguments.y, line.batch, row, column) +
                              stage.channel_of(line, j) * arguments.y.channel_stride,
                          sum, arguments.wide, arguments.half);
          }
          if (arguments.step_sums != nullptr) {
            const float size = is_lead ? 0.0f : slot[kRowStep1 * layout.value_pitch + place];
            const float sum = position.column == 0 ? size : step_sums[place] + size;
            step_sums[place] = sum;
            if (position.column + 1 == line.length) {
              arguments.step_sums[column_place * arguments.channels + stage.channel_of(line, j)] =
                  sum;
            }
          }
        }
      }
      if (next_active) stage.commit(line, slots + (step + 1) % 2 * layout.slot);
      wait_async<0>();
      sync();
      position = next;
    }
  }
}

template <ScanForm kForm, bool kSingle, int kChannels>
std::size_t shared_bytes(const ScanLayout& layout, int warps) {
  int floats = warps * warp_floats<kChannels>(layout, kSingle);
  if (!kSingle) floats += block_floats<kChannels>(layout, warps);
  return static_cast<std::size_t>(floats) * sizeof(float);
}

template <ScanForm kForm, bool kSingle, int kChannels>
ScanLayout layout_of(const ScanArguments& arguments) {
  return ScanLayout(arguments, kChannels, kValueRows<kForm>, kSingle ? 2 : 4);
}

}  // namespace

std::size_t scan_forward_shared_bytes(const ScanVariant& variant, const ScanArguments& arguments,
                                      int warps) {
  return with_scan_form(variant.form, [&]<ScanForm kForm>() {
    return with_scan_variant<kForm>(variant, [&]<bool kSingle, int kChannels>() {
      return shared_bytes<kForm, kSingle, kChannels>(
          layout_of<kForm, kSingle, kChannels>(arguments), warps);
    });
  });
}

void launch_scan_forward(const ScanVariant& variant, const ScanArguments& arguments, int warps,
                         int blocks, cudaStream_t stream) {
  with_scan_form(variant.form, [&]<ScanForm kForm>() {
    with_scan_variant<kForm>(variant, [&]<bool kSingle, int kChannels>() {
      const ScanLayout layout = layout_of<kForm, kSingle, kChannels>(arguments);
      launch(scan_forward_kernel<kForm, kSingle, kChannels>,
             {dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(warps * kWarpSize)),
              shared_bytes<kForm, kSingle, kChannels>(layout, warps), stream,
              "selective_scan_2d_forward"},
             {arguments, layout});
    });
  });
}

}  // namespace rankone::cuda
