// The backward sweep of the 2D selective scan, and of the 1D scan; instantiated per form.
//
// A job and its wavefront are those of the forward sweep. A block first goes through all steps
// forwards and keeps the states of its warps at every `tile`-th step, along the wavefront, so that
// a tile has no start-up: 8 N / tile bytes a cell and channel, of resident blocks only. Then,
// tile by tile against time, it makes the states of the tile's cells again, all of them in shared
// memory, and runs the adjoint wavefront over them:
//   a thread reads the states left of its cell, above it and in it from shared memory, and puts
//   what it sends to the row above where the cell's own states were;
//   lanes write their parts of sums over states (x, steps) and over channels (B, C) to shared
//   memory, from where few lanes sum them in a fixed order.
// Sums over channels of different warps, heads and batch entries are left to later kernels: the
// result does not depend on the order of blocks.
//
// Work of a state and cell in the zoh form: two forward ones of 30 instructions and about 64 for
// the adjoint.
#pragma once

#include "primitives/async_copy.cuh"
#include "primitives/launch.cuh"
#include "selective_scan_2d_adjoint.cuh"

namespace rankone::cuda {

struct alignas(16) SharedFloats {
  float x[4];
};

/// Where the pieces of shared memory lie, in floats.
template <ScanForm kForm, bool kSingle, int kChannels>
struct BackwardLayout {
  static constexpr int kVectors = kSingle ? 2 : 4;
  static constexpr int kKept = kSingle ? 2 : 4;  // states of a thread's channel
  static constexpr int kRow = kChannels * kWarpSize * kKept;
  static constexpr int kSums = CellSums<kForm, kSingle>::kCount;
  static constexpr int kChannelSums =
      kForm == ScanForm::kScalar ? kChannelParameters : kParameterMatrices;
  static constexpr int kScratch = (kSums * kChannels + 2 * kVectors) * kScratchRow;

  ScanLayout cell;
  int vector_area[kScanVectors];  // of a warp: products of varying vectors, or -1
  int channel_area;               // of a warp: sums over its cells of kChannelSums values a channel
  int warp_floats;
  int states;  // of a block or, on one axis, of a warp
  int static_vectors;
  int carry;     // 2D: what the first step of the tile after sends up
  int last_row;  // 2D: what comes to the last warp from memory, two steps
  int table;     // of parameters
  int warps_start;
  int total;

  __host__ __device__ BackwardLayout(const ScanArguments& arguments, int tile, int warps)
      : cell(arguments, kChannels, kValueRows<kForm>, kVectors) {
    channel_area = 2 * cell.slot + kScratch;
    warp_floats = channel_area + kChannelSums * cell.value_pitch;
    for (int k = 0; k < kVectors; ++k) {
      vector_area[k] = -1;
      if (arguments.vectors[k].local_groups == 1 && arguments.vectors[k].groups != 0) continue;
      vector_area[k] = warp_floats;
      const int floats = cell.warp_channels * cell.padded_states;
      warp_floats += floats < 4 ? 4 : floats;
    }
    if (kSingle) {
      static_vectors = warp_floats;
      table = static_vectors + cell.static_floats;
      states = table + kParameterTableFloats<kSingle, kChannels>;
      warp_floats = states + (tile + 1) * kRow;
      carry = last_row = warps_start = 0;
    } else {
      states = 0;
      carry = (tile + 1) * (warps + 1) * kRow;
      last_row = carry + warps * kRow;
      table = last_row + 2 * kRow;
      static_vectors = table + kParameterTableFloats<kSingle, kChannels>;
      warps_start = static_vectors + cell.static_floats;
    }
    total = warps_start + warps * warp_floats;
  }
};

/// The kernel's parameter: with what the host derives from the arguments, so that it is read from
/// the parameter's memory and takes no registers.
template <ScanForm kForm, bool kSingle, int kChannels>
struct BackwardLaunch {
  ScanBackwardArguments arguments;
  BackwardLayout<kForm, kSingle, kChannels> layout;
  ScanGrid grid;
  int tiles;

  BackwardLaunch(const ScanBackwardArguments& sweep, int warps)
      : arguments(sweep),
        layout(sweep.scan, sweep.tile, warps),
        grid(kSingle, warps, sweep.scan.rows, sweep.scan.columns, sweep.tile),
        tiles((grid.steps + sweep.tile - 1) / sweep.tile) {}
};

template <bool kSingle>
using KeptStates = std::conditional_t<kSingle, float2, float4>;

__device__ __forceinline__ void keep(float2& kept, const CellStates& states) {
  kept = make_float2(states.h1[0], states.h1[1]);
}
__device__ __forceinline__ void keep(float4& kept, const CellStates& states) {
  kept = pack_states(states);
}
__device__ __forceinline__ CellStates kept_states(const float2& kept) {
  return {{kept.x, kept.y}, {0.0f, 0.0f}};
}
__device__ __forceinline__ CellStates kept_states(const float4& kept) {
  return unpack_states(kept);
}

template <ScanForm kForm, bool kSingle, int kChannels>
__global__ void __launch_bounds__(kMaxScanWarps* kWarpSize,
                                  scan_backward_blocks(kSingle, kChannels == kWideChannels))
    scan_backward_kernel(
        __grid_constant__ const BackwardLaunch<kForm, kSingle, kChannels> launched) {
  using Layout = BackwardLayout<kForm, kSingle, kChannels>;
  using Kept = KeptStates<kSingle>;
  using Sums = CellSums<kForm, kSingle>;
  constexpr int kLanes = kLaneChannels<kChannels>;
  constexpr int kKinds = kSingle ? 1 : 2;
  constexpr int kVectors = Layout::kVectors;
  constexpr int kRowItems = kChannels * kWarpSize;
  const ScanBackwardArguments& arguments = launched.arguments;
  const ScanArguments& scan = arguments.scan;
  const Layout& layout = launched.layout;
  const ScanGrid& grid = launched.grid;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  const int warp = shuffle_idx(warp_id(), 0);
  const ScanLane lane = ScanLane::of<kChannels>(scan.state_lanes);
  const ScanLayout& cell_layout = layout.cell;

  float* const shared = shared_memory<SharedFloats>().x;
  float* const own = shared + layout.warps_start + warp * layout.warp_floats;
  float* const slots = own;
  float* const scratch = own + 2 * cell_layout.slot;
  float* const vector_scratch = scratch + Sums::kCount * kChannels * kScratchRow;
  float* const static_vectors = (kSingle ? own : shared) + layout.static_vectors;
  float* const table = (kSingle ? own : shared) + layout.table;
  Kept* const kept = reinterpret_cast<Kept*>((kSingle ? own : shared) + layout.states) + lane_id();
  // States before local step i: of the warp's row, and of the row above it.
  const int step_items = (kSingle ? 1 : warps + 1) * kRowItems;
  const auto states_at = [&](int i) {
    return kept + i * step_items + (kSingle ? 0 : (warp + 1) * kRowItems);
  };
  const auto above_at = [&](int i) { return kept + i * step_items + warp * kRowItems; };
  Kept* const carry = reinterpret_cast<Kept*>(shared + layout.carry) + lane_id();
  Kept* const last_row = reinterpret_cast<Kept*>(shared + layout.last_row) + lane_id();

  const std::int64_t owner =
      kSingle ? static_cast<std::int64_t>(blockIdx.x) * warps + warp : blockIdx.x;
  const int checkpoint_warps = kSingle ? 1 : warps;
  Kept* const checkpoints =
      reinterpret_cast<Kept*>(arguments.checkpoints) +
      (owner * arguments.tiles * checkpoint_warps + (kSingle ? 0 : warp)) * kRowItems + lane_id();
  const auto sync = [] {
    if constexpr (kSingle) {
      warp_sync();
    } else {
      block_sync();
    }
  };

  const int job_step = static_cast<int>(gridDim.x) * (kSingle ? warps : 1);
  for (int job = static_cast<int>(owner); job < scan.jobs; job += job_step) {
    ScanLine job_line;
    int index = job;
    const int channel_block = index % scan.channel_blocks;
    job_line.channel = channel_block * cell_layout.warp_channels;
    index /= scan.channel_blocks;
    int first_row = warp;
    if constexpr (kSingle) {
      first_row = index % scan.rows;
      index /= scan.rows;
    }
    job_line.batch = index;
    job_line.segment = 0;
    job_line.first = 0;
    job_line.length = scan.columns;
    ScanLine line = job_line;
    const int tiles = launched.tiles;
    const int wavefront = kSingle ? 0 : warp;
    // Last rows of all row blocks but one: states on the way there, adjoints on the way back.
    const auto buffered = [&](int block, int column) {
      return reinterpret_cast<Kept*>(scan.row_buffer) +
             ((owner * (grid.row_blocks - 1) + block) * scan.columns + column) * kRowItems +
             lane_id();
    };
    const auto row_of = [&](const ScanPosition& position) {
      return first_row + position.block * grid.warps;
    };
    const auto is_active = [&](const ScanPosition& position) {
      return position.block < grid.row_blocks && position.column >= 0 &&
             position.column < line.length && row_of(position) < scan.rows;
    };
    const auto column_place = [&](int row) {
      return static_cast<std::int64_t>(line.batch) * scan.rows + row;
    };
    const auto row_place = [&](int column) {
      return static_cast<std::int64_t>(line.batch) * scan.columns + column;
    };
    const auto channel_of = [&](int c) { return line.channel + lane.channel + c; };

    CellStage<kForm, kSingle, kChannels> stage(scan, cell_layout);
    if constexpr (kSingle) {
      stage.store_static(line, static_vectors, lane_id(), kWarpSize);
    } else {
      stage.store_static(line, static_vectors, static_cast<int>(threadIdx.x), warps * kWarpSize);
    }
    CellVectors<kSingle, kChannels> vectors;
    vectors.start(scan, line, lane);
    ScanParameters<kForm, kSingle, kChannels, ScanTable::kAll> parameters;
    parameters.load(scan, line, lane, kSingle || warp == 0 ? table : nullptr);
    MatrixGradients<kForm, kSingle, kChannels> matrices;
    float* const channel_sums = own + layout.channel_area;
    for (int e = lane_id(); e < Layout::kChannelSums * cell_layout.value_pitch; e += kWarpSize) {
      channel_sums[e] = 0.0f;
    }
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      if (scan.vectors[k].groups != 0) continue;
      float* const area = own + layout.vector_area[k];
      for (int e = lane_id(); e < cell_layout.warp_channels * cell_layout.padded_states;
           e += kWarpSize) {
        area[e] = 0.0f;
      }
    }

    CellStates right[kChannels] = {};   // adjoints from the right neighbour
    CellStates states[kChannels] = {};  // of the warp's row, while they are made
    for (int pass = 0; pass < 2 * tiles; ++pass) {
      const bool returns = pass >= tiles;
      const int tile = returns ? 2 * tiles - 1 - pass : pass;
      const int first_step = tile * arguments.tile;
      const int count = min(arguments.tile, grid.steps - first_step);
      ScanPosition position = ScanPosition::at(first_step, wavefront, grid.pitch);

      // ---- the states of the tile; those of the last one are still there on the way back ----
      if (pass != tiles) {
        Kept* const checkpoint =
            checkpoints + static_cast<std::int64_t>(tile) * checkpoint_warps * kRowItems;
        Kept* const before = states_at(0);
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          if (returns) {
            states[c] = kept_states(checkpoint[c * kWarpSize]);
          } else {
            keep(checkpoint[c * kWarpSize], states[c]);
          }
          keep(before[c * kWarpSize], states[c]);
        }
        if constexpr (!kSingle) {
          // Row -1 of the row blocks under way, for warp 0; fetched by all.
          for (int i = warp; i < count; i += warps) {
            const ScanPosition top = ScanPosition::at(first_step + i, 0, grid.pitch);
            Kept* const target = kept + i * step_items;
            if (top.block >= grid.row_blocks || top.column >= line.length) continue;
            if (top.block > 0) {
              const Kept* const source = buffered(top.block - 1, top.column);
#pragma unroll
              for (int c = 0; c < kChannels; ++c) {
                copy_async_16(target + c * kWarpSize, source + c * kWarpSize);
              }
            } else {
#pragma unroll
              for (int c = 0; c < kChannels; ++c) {
                CellStates initial;
                load_states(scan, scan.initial.row_h1, row_place(top.column), channel_of(c),
                            lane.state, initial.h1);
                load_states(scan, scan.initial.row_h2, row_place(top.column), channel_of(c),
                            lane.state, initial.h2);
                keep(target[c * kWarpSize], initial);
              }
            }
          }
          commit_async();
        }
        const bool adjoint_follows = returns || pass + 1 == tiles;
        if (is_active(position)) {
          stage.prefetch(line, row_of(position), position.column);
          stage.commit(line, slots);
          if (adjoint_follows && count == 1) {
            stage.prefetch_gradient(arguments.y_grad, line, row_of(position), position.column);
            stage.commit_gradient(line, slots);
          }
        }
        wait_async<0>();
        sync();
        for (int i = 0; i < count; ++i) {
          line.batch = opaque(job_line.batch);
          line.channel = opaque(job_line.channel);
          ScanPosition next = position;
          next.advance(grid.pitch);
          const bool next_active = i + 1 < count && is_active(next);
          const bool with_gradient = adjoint_follows && i + 2 == count;
          if (next_active) {
            stage.prefetch(line, row_of(next), next.column);
            if (with_gradient) {
              stage.prefetch_gradient(arguments.y_grad, line, row_of(next), next.column);
            }
          }
          if (is_active(position)) {
            const int row = row_of(position);
            const float* const slot = slots + i % 2 * cell_layout.slot;
            CellFactors<kForm, kSingle, kChannels> factors;
            factors.load(slot, cell_layout, lane);
#pragma unroll
            for (int c = 0; c < kChannels; ++c) {
              if (position.column == 0) {
                load_states(scan, scan.initial.column_h1, column_place(row), channel_of(c),
                            lane.state, states[c].h1);
                if constexpr (!kSingle) {
                  load_states(scan, scan.initial.column_h2, column_place(row), channel_of(c),
                              lane.state, states[c].h2);
                }
              }
              vectors.load(scan, cell_layout, lane, slot, static_vectors, c);
              parameters.select(table, c);
              CellStates up{};
              if constexpr (!kSingle) up = kept_states(above_at(i)[c * kWarpSize]);
              states[c] =
                  advance_states(parameters, factors, vectors, lane, scan.states, c, states[c], up);
              keep(states_at(i + 1)[c * kWarpSize], states[c]);
              if (!kSingle && !returns && warp == warps - 1 &&
                  position.block + 1 < grid.row_blocks) {
                keep(buffered(position.block, position.column)[c * kWarpSize], states[c]);
              }
            }
          }
          if (next_active) {
            float* const slot = slots + (i + 1) % 2 * cell_layout.slot;
            stage.commit(line, slot);
            if (with_gradient) stage.commit_gradient(line, slot);
          }
          sync();
          position = next;
        }
        position = ScanPosition::at(first_step, wavefront, grid.pitch);
      }
      if (!returns) continue;

      // ---- the adjoints ----
      position = ScanPosition::at(first_step + count - 1, wavefront, grid.pitch);
      for (int i = count - 1; i >= 0; --i) {
        line.batch = opaque(job_line.batch);
        line.channel = opaque(job_line.channel);
        const int step = first_step + i;
        ScanPosition next = position;
        next.retreat(grid.pitch);
        const bool next_active = i > 0 && is_active(next);
        if (next_active) {
          stage.prefetch(line, row_of(next), next.column);
          stage.prefetch_gradient(arguments.y_grad, line, row_of(next), next.column);
        }
        if constexpr (!kSingle) {
          // The row below the last warp's next cell, which may be in another tile.
          if (warp == warps - 1 && is_active(next) && next.block + 1 < grid.row_blocks) {
            const Kept* const source = buffered(next.block, next.column);
            Kept* const target = last_row + (step + 1) % 2 * kRowItems;
#pragma unroll
            for (int c = 0; c < kChannels; ++c) {
              copy_async_16(target + c * kWarpSize, source + c * kWarpSize);
            }
          }
          commit_async();
        }
        if (is_active(position)) {
          const int row = row_of(position);
          const int column = position.column;
          const float* const slot = slots + i % 2 * cell_layout.slot;
          CellFactors<kForm, kSingle, kChannels> factors;
          factors.load(slot, cell_layout, lane);
          float gradient[kChannels];
          load_channels(slot + kRowGrad * cell_layout.value_pitch + lane.channel, gradient);
          float vector_sums[kVectors][2] = {};
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            CellStates left{}, up{}, below{};
            const CellStates after = kept_states(states_at(i + 1)[c * kWarpSize]);
            if (column == 0) {
              load_states(scan, scan.initial.column_h1, column_place(row), channel_of(c),
                          lane.state, left.h1);
              if constexpr (!kSingle) {
                load_states(scan, scan.initial.column_h2, column_place(row), channel_of(c),
                            lane.state, left.h2);
              }
            } else {
              left = kept_states(states_at(i)[c * kWarpSize]);
            }
            if (column + 1 == line.length) {
              load_states(scan, arguments.final_grad.column_h1, column_place(row), channel_of(c),
                          lane.state, right[c].h1);
              if constexpr (!kSingle) {
                load_states(scan, arguments.final_grad.column_h2, column_place(row), channel_of(c),
                            lane.state, right[c].h2);
              }
            }
            if constexpr (!kSingle) {
              up = kept_states(above_at(i)[c * kWarpSize]);
              if (row + 1 == scan.rows) {
                load_states(scan, arguments.final_grad.row_h1, row_place(column), channel_of(c),
                            lane.state, below.h1);
                load_states(scan, arguments.final_grad.row_h2, row_place(column), channel_of(c),
                            lane.state, below.h2);
              } else if (warp == warps - 1) {
                below = kept_states(last_row[step % 2 * kRowItems + c * kWarpSize]);
              } else if (i + 1 == count) {
                below = kept_states(carry[(warp + 1) * kRowItems + c * kWarpSize]);
              } else {
                below = kept_states(
                    kept[(i + 2) * step_items + (warp + 2) * kRowItems + c * kWarpSize]);
              }
            }
            vectors.load(scan, cell_layout, lane, slot, static_vectors, c);
            parameters.select(table, c);
            Sums sums;
            const CellAdjoint result =
                adjoint_of_cell(parameters, factors, vectors, lane, scan.states, c, gradient[c],
                                left, up, after, right[c], below, matrices, sums);
            right[c] = result.left;
            if constexpr (!kSingle) {
              if (warp > 0) {
                Kept* const target = i > 0 ? states_at(i + 1) : carry + warp * kRowItems;
                keep(target[c * kWarpSize], result.up);
              } else if (position.block > 0) {
                keep(buffered(position.block - 1, column)[c * kWarpSize], result.up);
              } else {
                store_states(scan, arguments.initial_grad.row_h1, row_place(column), channel_of(c),
                             lane.state, result.up.h1);
                store_states(scan, arguments.initial_grad.row_h2, row_place(column), channel_of(c),
                             lane.state, result.up.h2);
              }
            }
            if (column == 0) {
              store_states(scan, arguments.initial_grad.column_h1, column_place(row), channel_of(c),
                           lane.state, result.left.h1);
              if constexpr (!kSingle) {
                store_states(scan, arguments.initial_grad.column_h2, column_place(row),
                             channel_of(c), lane.state, result.left.h2);
              }
            }
#pragma unroll
            for (int v = 0; v < Sums::kCount; ++v) {
              scratch[(v * kChannels + c) * kScratchRow + lane_id()] = sums.value[v];
            }
#pragma unroll
            for (int k = 0; k < kVectors; ++k) {
              if (layout.vector_area[k] < 0) {
                vector_sums[k][0] += result.vectors[k][0];
                vector_sums[k][1] += result.vectors[k][1];
                continue;
              }
              auto& place = *reinterpret_cast<float2*>(
                  own + layout.vector_area[k] + (lane.channel + c) * cell_layout.padded_states +
                  lane.state);
              // A static vector's products are summed over cells by their thread.
              const bool adds = scan.vectors[k].groups == 0;
              place.x = adds ? place.x + result.vectors[k][0] : result.vectors[k][0];
              place.y = adds ? place.y + result.vectors[k][1] : result.vectors[k][1];
            }
          }
#pragma unroll
          for (int k = 0; k < kVectors; ++k) {
            if (layout.vector_area[k] >= 0) continue;
            vector_scratch[2 * k * kScratchRow + lane_id()] = vector_sums[k][0];
            vector_scratch[(2 * k + 1) * kScratchRow + lane_id()] = vector_sums[k][1];
          }
          warp_sync();

          // ---- sums over the states of a channel ----
#pragma unroll
          for (int j = 0; j < kLanes; ++j) {
            if (!stage.is_inside(line, j)) continue;
            const int place = lane_id() + j * kWarpSize;
            const int channel = stage.channel_of(line, j);
            float sums[Sums::kCount];
#pragma unroll
            for (int v = 0; v < Sums::kCount; ++v) {
              const float* const parts = scratch +
                                         (v * kChannels + place % kChannels) * kScratchRow +
                                         place / kChannels * scan.state_lanes;
              float sum = 0.0f;
              for (int n = 0; n < scan.state_lanes; n += 2) {
                const float2 pair = *reinterpret_cast<const float2*>(parts + n);
                sum += pair.x + pair.y;
              }
              sums[v] = sum;
            }
            const float* const values = slot + place;
            const auto add_to_channel = [&](int parameter, float value) {
              channel_sums[parameter * cell_layout.value_pitch + place] += value;
            };
            const float x = values[kRowX * cell_layout.value_pitch];
            const float g = values[kRowGrad * cell_layout.value_pitch];
            const float skip = scan.skip != nullptr ? scan.skip[channel] : 0.0f;
            float x_grad = skip * g;
            float step_grad[kKinds] = {};
            if constexpr (kForm == ScanForm::kScalar) {
#pragma unroll
              for (int kind = 0; kind < kKinds; ++kind) {
                const int own_index = own_matrix(kind), other_index = other_matrix(kind);
                const float step_size = values[(kRowStep1 + kind) * cell_layout.value_pitch];
                const ScalarGradients by = scalar_gradients(
                    scan.discretization, step_size, stage.scalar_matrix(line, own_index, j),
                    stage.scalar_matrix(line, other_index, j), scan.a[other_index].data != nullptr);
                const float* const parts = sums + Sums::kFirst + 3 * kind;
                const float driven = parts[2] * x;
                x_grad = fmaf(parts[2], by.factors.input, x_grad);
                step_grad[kind] = parts[0] * by.decay_by_step + parts[1] * by.coupling_by_step +
                                  driven * by.input_by_step;
                add_to_channel(kParameterMatrices + own_index, parts[0] * by.decay_by_own +
                                                                   parts[1] * by.coupling_by_own +
                                                                   driven * by.input_by_own);
                add_to_channel(kParameterMatrices + other_index, parts[1] * by.coupling_by_other);
              }
            } else {
              x_grad += sums[Sums::kInput];
              if constexpr (kForm != ScanForm::kNone) {
#pragma unroll
                for (int kind = 0; kind < kKinds; ++kind) {
                  step_grad[kind] = sums[Sums::kStep + kind];
                }
              }
            }
            add_to_channel(kParameterSkip, g * x);
            const auto store = [&](const MutableCells& tensor, float value) {
              store_element(
                  tensor.data,
                  cell_offset(tensor, line.batch, row, column) + channel * tensor.channel_stride,
                  value, scan.wide, scan.half);
            };
            if (arguments.x_grad.data != nullptr) store(arguments.x_grad, x_grad);
            if (arguments.z_grad.data != nullptr) {
              // Read once more rather than kept: the stage has brought both to L1.
              const auto load = [&](const ConstCells& tensor) {
                return from_bits(load_bits(tensor.data,
                                           cell_offset(tensor, line.batch, row, column) +
                                               channel * tensor.channel_stride,
                                           scan.wide),
                                 scan.wide, scan.half);
              };
              const float z = load(scan.z);
              const float sigmoid = 1.0f / (1.0f + expf(-z));
              const float output = fmaf(skip, x, sums[Sums::kOutput]);
              store(arguments.z_grad,
                    load(arguments.y_grad) * output * sigmoid * fmaf(z, 1.0f - sigmoid, 1.0f));
            }
#pragma unroll
            for (int kind = 0; kind < kKinds; ++kind) {
              if constexpr (kForm == ScanForm::kNone) continue;
              // The derivative of softplus at its argument is 1 - exp(-step).
              const float step_size = values[(kRowStep1 + kind) * cell_layout.value_pitch];
              const float raw_grad =
                  scan.softplus ? step_grad[kind] * -expm1f(-step_size) : step_grad[kind];
              add_to_channel(kParameterBias + kind, raw_grad);
              if (arguments.dt_grad[kind].data != nullptr) {
                store(arguments.dt_grad[kind], raw_grad);
              }
              if (arguments.step_grads[kind] != nullptr) {
                arguments
                    .step_grads[kind][(column_place(row) * scan.columns + column) * scan.channels +
                                      channel] = raw_grad;
              }
            }
          }

          // ---- sums over the channels of a group ----
          const std::int64_t block_place =
              (column_place(row) * scan.columns + column) * scan.channel_blocks + channel_block;
#pragma unroll
          for (int k = 0; k < kVectors; ++k) {
            const ScanVector& vector = scan.vectors[k];
            float* const target = arguments.vector_grads[k];
            if (target == nullptr || vector.groups == 0) continue;
            for (int e = lane_id(); e < vector.local_groups * cell_layout.padded_states;
                 e += kWarpSize) {
              const int state = e % cell_layout.padded_states;
              const int group = e / cell_layout.padded_states;
              if (state >= scan.states) continue;
              float sum = 0.0f;
              if (layout.vector_area[k] < 0) {
                const float* const parts =
                    vector_scratch + (2 * k + state % 2) * kScratchRow + state / 2;
                for (int n = 0; n < kWarpSize; n += scan.state_lanes) sum += parts[n];
              } else {
                const int first =
                    (line.channel / vector.channels_per_group + group) * vector.channels_per_group -
                    line.channel;
                const int last = min(first + vector.channels_per_group,
                                     min(cell_layout.warp_channels, scan.channels - line.channel));
                for (int n = max(first, 0); n < last; ++n) {
                  sum += own[layout.vector_area[k] + n * cell_layout.padded_states + state];
                }
              }
              target[(block_place * vector.local_groups + group) * scan.states + state] = sum;
            }
          }
        }
        if (next_active) {
          float* const slot = slots + (i + 1) % 2 * cell_layout.slot;
          stage.commit(line, slot);
          stage.commit_gradient(line, slot);
        }
        wait_async<0>();
        sync();
        position = next;
      }
    }

    // ---- the job's part of the parameters' gradients ----
    const int channel_states = cell_layout.warp_channels * cell_layout.padded_states;
    float* const state_target = arguments.state_parameters + static_cast<std::int64_t>(job) *
                                                                 arguments.state_parameter_count *
                                                                 channel_states;
    float* const channel_target = arguments.channel_parameters +
                                  static_cast<std::int64_t>(job) *
                                      arguments.channel_parameter_count * cell_layout.warp_channels;
    // Sums `total` floats of every warp, which lie `pitch` apart, in the order of the warps.
    const auto sum_warps = [&](const float* parts, int pitch, int total, float* target) {
      if constexpr (kSingle) {
        warp_sync();
        for (int e = lane_id(); e < total; e += kWarpSize) target[e] = parts[e];
        warp_sync();
      } else {
        block_sync();
        for (int e = static_cast<int>(threadIdx.x); e < total; e += warps * kWarpSize) {
          float sum = 0.0f;
          for (int w = 0; w < warps; ++w) sum += parts[w * pitch + e];
          target[e] = sum;
        }
        block_sync();
      }
    };
    // A warp's scratch holds its values by (channel, state).
    float* const first_warp = kSingle ? own : shared + layout.warps_start;
    const int pitch = layout.warp_floats;
    const auto store_matrix = [&](int parameter, const float (&values)[kChannels][2]) {
      const int place = arguments.state_slots[parameter];
      if (place < 0) return;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        *reinterpret_cast<float2*>(scratch + (lane.channel + c) * cell_layout.padded_states +
                                   lane.state) = make_float2(values[c][0], values[c][1]);
      }
      sum_warps(first_warp + 2 * cell_layout.slot, pitch, channel_states,
                state_target + place * channel_states);
    };
    if constexpr (kForm != ScanForm::kScalar) {
#pragma unroll
      for (int kind = 0; kind < kKinds; ++kind) {
        store_matrix(own_matrix(kind), matrices.own[kind]);
        if constexpr (!kSingle) store_matrix(other_matrix(kind), matrices.other[kind]);
      }
      if constexpr (kForm == ScanForm::kCompanion) {
        store_matrix(kParameterGamma, matrices.gamma);
      }
    }
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const int place = arguments.state_slots[kParameterVectors + k];
      if (place < 0) continue;
      sum_warps(first_warp + layout.vector_area[k], pitch, channel_states,
                state_target + place * channel_states);
    }
#pragma unroll
    for (int q = 0; q < Layout::kChannelSums; ++q) {
      const int place = arguments.channel_slots[q];
      if (place < 0) continue;
      sum_warps(first_warp + layout.channel_area + q * cell_layout.value_pitch, pitch,
                cell_layout.warp_channels, channel_target + place * cell_layout.warp_channels);
    }
    sync();
  }
}

template <ScanForm kForm>
std::size_t backward_shared_bytes(const ScanVariant& variant,
                                  const ScanBackwardArguments& arguments, int tile, int warps) {
  const int floats = with_scan_variant<kForm>(variant, [&]<bool kSingle, int kChannels>() {
    return BackwardLayout<kForm, kSingle, kChannels>(arguments.scan, tile, warps).total;
  });
  return static_cast<std::size_t>(floats) * sizeof(float);
}

template <ScanForm kForm>
void launch_backward_form(const ScanVariant& variant, const ScanBackwardArguments& arguments,
                          int warps, int blocks, cudaStream_t stream) {
  const LaunchConfig config{dim3(static_cast<unsigned>(blocks)),
                            dim3(static_cast<unsigned>(warps * kWarpSize)),
                            backward_shared_bytes<kForm>(variant, arguments, arguments.tile, warps),
                            stream, "selective_scan_2d_backward"};
  with_scan_variant<kForm>(variant, [&]<bool kSingle, int kChannels>() {
    launch(scan_backward_kernel<kForm, kSingle, kChannels>, config,
           BackwardLaunch<kForm, kSingle, kChannels>(arguments, warps));
  });
}

}  // namespace rankone::cuda
