#include "kernels/stream/stream_plan.h"

#include <algorithm>
#include <map>

#include "kernels/attention/packed_attention.h"
#include "kernels/linear/strands.h"
#include "kernels/silu_gate/silu_gate.h"

namespace tandem::stream {
namespace {

// From a program's steps to the kernel's. What a step's pointer stands for changes as steps write it: `buffers_` holds
// where the latest value of a buffer lies.
class Builder {
 public:
  Builder(const Program& program, size_t first, StreamPlan& plan)
      : program_(program), first_(first), plan_(plan) {}

  size_t Build() {
    size_t i = first_;
    const Lane lane = program_.steps()[first_].lane;
    while (i < program_.steps().size() && program_.steps()[i].lane == lane) {
      const size_t n = Take(i);
      if (n == 0) break;
      i += n;
    }
    // What steps of this kernel wrote is nowhere else: none that follows may want it.
    if (i < program_.steps().size() && program_.steps()[i].lane == lane) {
      const Op next = program_.steps()[i].op;
      if (next == Op::kLinear || next == Op::kRopeAppend || next == Op::kAttention || next == Op::kSiluGate)
        return 0;
    }
    return i - first_;
  }

 private:
  struct Buffer {
    Place place;
    bool bf16 = false;
    int residual_step = -1;  // of `steps`: which wrote it, if it is a residual
  };

  // An address that is an offset yet.
  Place NewPlace(int64_t bytes) {
    const Place place = {reinterpret_cast<char*>(plan_.half_bytes), 1};
    plan_.half_bytes += (bytes + 127) / 128 * 128;
    return place;
  }
  // Likewise, in values.
  const float* Widen(const View& vector) {
    if (!vector) return nullptr;
    plan_.vectors.push_back(vector);
    const int64_t at = plan_.n_widened;
    plan_.n_widened += (vector.n_cols + 3) / 4 * 4;
    return reinterpret_cast<const float*>(at + 1);
  }
  Buffer Find(const float* data) const {
    const auto found = buffers_.find(data);
    if (found != buffers_.end()) return found->second;
    return {{reinterpret_cast<char*>(const_cast<float*>(data)), 0}, false};
  }

  // Takes the step at i, with the ones that are part of it; 0 if that cannot be done.
  size_t Take(size_t i) {
    const Step& step = program_.steps()[i];
    if (step.op == Op::kLinear) return TakeProduct(program_.args_as<LinearArgs>(step), i);
    if (step.op == Op::kRopeAppend) return TakeAttention(program_.args_as<RopeAppendArgs>(step), i);
    return 0;
  }
  template <typename Args>
  const Args* Next(size_t i) const {
    if (i + 1 >= program_.steps().size()) return nullptr;
    const Step& step = program_.steps()[i + 1];
    return step.op == Args::kOp && step.lane == program_.steps()[i].lane ? &program_.args_as<Args>(step)
                                                                         : nullptr;
  }

  bool CountOf(const int32_t* n, int32_t* count) {
    for (int c = 0; c < 2; ++c) {
      if (plan_.n_rows[c] == nullptr) plan_.n_rows[c] = n;
      if (plan_.n_rows[c] == n) {
        *count = c;
        return true;
      }
    }
    return false;
  }

  size_t TakeProduct(const LinearArgs& args, size_t i) {
    if (args.max_rows > kMaxRows || !strands::CanFollow(args) || args.in_dim % kMapCols != 0) return 0;
    const Buffer in = Find(args.in);
    const bool first = in.place.half_bytes == 0;
    if (first ? !args.norm || args.in_dim > kMaxHidden : !in.bf16) return 0;
    if (args.norm && args.in_dim > kMaxHidden) return 0;
    if (in.residual_step >= 0 ? !args.norm : !first && args.norm) return 0;
    StreamStep step = {};
    step.kind = Kind::kProduct;
    Product& product = step.product;
    Tiles& tiles = product.tiles;
    if (!CountOf(args.n_rows, &tiles.count)) return 0;
    product.input = first ? Input::kFirst : Input::kBf16;
    product.in = in.place;
    product.in_stride = args.in_stride;
    product.src = args.src;
    product.dst = args.dst;
    product.scaled = static_cast<bool>(args.norm);
    if (first) product.gain = Widen(args.norm);
    if (in.residual_step >= 0) {
      // One product reads what a residual has become, times its norm.
      Segment& from = plan_.steps[in.residual_step].product.segment[0];
      if (from.gain != nullptr) return 0;
      from.gain = Widen(args.norm);
      product.squares = from.squares;
    }
    product.norm_eps = args.norm_eps;
    tiles.in_dim = args.in_dim;
    const SiluGateArgs* gate = Next<SiluGateArgs>(i);
    const bool gated = gate != nullptr && args.n_segments == 2 && args.segment[0].out == gate->gate &&
                       args.segment[1].out == gate->up && !args.segment[0].accumulate &&
                       !args.segment[1].accumulate &&
                       args.segment[0].weight.n_rows == args.segment[1].weight.n_rows;
    const bool residual = args.segment[0].accumulate, logits = args.src != nullptr || args.dst != nullptr;
    tiles.gated = gated;
    tiles.residual = residual;
    product.output = gated      ? Output::kGated
                     : residual ? Output::kResidual
                     : logits   ? Output::kLogits
                                : Output::kF32;
    for (int s = 0; s < kMaxSegments; ++s) {
      tiles.first_group[s] = gated ? 0 : s < args.n_segments ? tiles.n_groups : 1 << 30;
      if (s >= args.n_segments) continue;
      const LinearSegment& from = args.segment[s];
      if (from.accumulate != residual) return 0;
      Segment& to = product.segment[s];
      to.weight = static_cast<const uint16_t*>(from.weight.data);
      tiles.n_outputs[s] = static_cast<int32_t>(from.weight.n_rows);
      tiles.n_groups += (tiles.n_outputs[s] + strands::kTileRows - 1) / strands::kTileRows;
      to.out_stride = from.out_stride;
      to.bias = Widen(from.bias);
      const int64_t n = int64_t{args.max_rows} * from.out_stride;
      if (residual) {
        // One chain of sums, whose outputs keep their blocks.
        if (args.n_segments != 1 || logits || tiles.count != 0 || from.weight.n_rows % strands::kSquares != 0)
          return 0;
        if (residual_ != nullptr && (residual_ != from.out || n_residual_ != tiles.n_outputs[0])) return 0;
        if (residual_ == nullptr) {
          const Buffer old = Find(from.out);
          if (old.place.half_bytes != 0) return 0;
          to.old = old.place;
        }
        residual_ = from.out;
        n_residual_ = tiles.n_outputs[0];
      }
      if (product.output == Output::kLogits) {
        to.out = {reinterpret_cast<char*>(from.out), 0};
      } else if (residual) {
        to.out = NewPlace(n * 2);
        to.squares = NewPlace(n / strands::kSquares * 4);
        buffers_[from.out] = {to.out, true, static_cast<int>(plan_.steps.size())};
      } else if (!gated) {
        to.out = NewPlace(n * 4);
        buffers_[from.out] = {to.out, false};
      } else if (s == 0) {
        to.out = NewPlace(n * 2);
      }
    }
    if (gated) {
      tiles.n_groups = (tiles.n_outputs[0] + 7) / 8;
      buffers_[gate->gate] = {product.segment[0].out, true};
    }
    plan_.max_rows = std::max(plan_.max_rows, args.max_rows);
    plan_.steps.push_back(step);
    return gated ? 2 : 1;
  }

  size_t TakeAttention(const RopeAppendArgs& rope, size_t i) {
    const AttentionArgs* attention = Next<AttentionArgs>(i);
    if (attention == nullptr || attention->q != rope.q || rope.kv.dtype != DType::kBf16) return 0;
    const int d = rope.kv.head_dim, group = rope.n_heads / rope.kv.n_kv_heads;
    if ((d != 64 && d != 128) || group > packed_attention::kQueries) return 0;
    if (rope.rows.capacity > kMaxRows || rope.kv.page_size % packed_attention::kWarpKeys != 0) return 0;
    const auto alike = [&] {
      const KvLayer& other = plan_.attention.kv;
      return plan_.attention.n_heads == attention->n_heads && other.n_kv_heads == rope.kv.n_kv_heads &&
             other.page_table == rope.kv.page_table && other.page_size == rope.kv.page_size;
    };
    if (plan_.n_layers > 0 && !alike()) return 0;
    const Buffer q = Find(rope.q), k = Find(rope.k), v = Find(rope.v);
    // Values of an earlier kernel need no waiting, but then the rotation in place would be missed by later ones.
    if (q.place.half_bytes == 0 || k.place.half_bytes == 0 || v.place.half_bytes == 0) return 0;
    int32_t count = 0;
    if (!CountOf(rope.rows.n_rows, &count) || count != 0) return 0;
    plan_.rows = rope.rows;
    plan_.attention = *attention;
    StreamStep step = {};
    step.kind = Kind::kAttention;
    step.attend.attention = *attention;
    step.attend.cos_sin = rope.cos_sin;
    step.attend.q_norm = Widen(rope.q_norm);
    step.attend.k_norm = Widen(rope.k_norm);
    step.attend.norm_eps = rope.norm_eps;
    ++plan_.n_layers;
    step.attend.q = q.place;
    step.attend.k = k.place;
    step.attend.v = v.place;
    const int64_t n_queries = int64_t{rope.rows.capacity} * rope.n_heads;
    step.attend.out = NewPlace(n_queries * d * 2);
    step.attend.sums = NewPlace(n_queries * packed_attention::kCluster * d * 4);
    step.attend.stats = NewPlace(n_queries * packed_attention::kCluster * 2 * 4);
    buffers_[attention->out] = {step.attend.out, true};
    plan_.head_dim = std::max(plan_.head_dim, d);
    StreamStep& before = plan_.steps.back();  // of those that wrote q, k and v the last one
    before.before_attention = true;
    before.attend = step.attend;
    plan_.steps.push_back(step);
    return 2;
  }

  const Program& program_;
  const size_t first_;
  StreamPlan& plan_;
  std::map<const float*, Buffer> buffers_;
  const float* residual_ = nullptr;  // what products add to
  int32_t n_residual_ = 0;
};

}  // namespace

size_t PlanStream(const Program& program, size_t first, StreamPlan* plan) {
  *plan = {};
  const size_t n_steps = Builder(program, first, *plan).Build();
  return plan->n_layers > 0 ? n_steps : 0;
}

}  // namespace tandem::stream
