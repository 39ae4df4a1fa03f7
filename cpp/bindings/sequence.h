// What the bindings of the sequence ops share: a call's tuples, in the order in which
// rankone.ops._sequence and the ops' native_inputs build them, and the problems made from them.
#pragma once

#include "bindings.h"

namespace rankone::bindings {

/// batch, time, heads, the op's other heads, key_dim, value_dim, sequences.
using Sizes = std::array<std::int64_t, 7>;
/// Data type, decay form, chunk size, scale, and what is the op's own.
template <typename... Own>
using Options = std::tuple<int, int, int, double, Own...>;
template <int kCount>
using Tokens = std::array<TokensTuple, kCount>;
template <int kCount>
using Addresses = std::array<std::int64_t, kCount>;

/// The initial state and the offsets of packed sequences.
using Optional = Addresses<2>;
/// The output and the state after it.
using Results = Addresses<2>;

/// The fields that the inputs of every sequence op have; `other_heads` names the second count.
template <typename Inputs, typename Shape, typename... Own>
Inputs sequence_inputs(const Sizes& sizes, const Options<Own...>& options, const Optional& optional,
                       std::int64_t Shape::* other_heads) {
  Inputs inputs;
  Shape& shape = inputs.shape;
  shape.batch = sizes[0];
  shape.time = sizes[1];
  shape.heads = sizes[2];
  shape.*other_heads = sizes[3];
  shape.key_dim = sizes[4];
  shape.value_dim = sizes[5];
  shape.num_sequences = sizes[6];
  shape.cu_seqlens = pointer<const std::int64_t>(optional[1]);
  inputs.dtype = static_cast<DataType>(std::get<0>(options));
  inputs.decay_form = static_cast<DecayForm>(std::get<1>(options));
  inputs.chunk_size = std::get<2>(options);
  inputs.scale = std::get<3>(options);
  inputs.initial_state = pointer(optional[0]);
  return inputs;
}

/// A forward or a step, of the inputs that `kInputs` makes of the other tuples.
template <typename Problem, auto kInputs, typename Options, typename Tokens>
Problem with_results(const Sizes& sizes, const Options& options, const Tokens& tensors,
                     const Optional& optional, const Results& results) {
  return {kInputs(sizes, options, tensors, optional), pointer(results[0]), pointer(results[1])};
}

}  // namespace rankone::bindings
