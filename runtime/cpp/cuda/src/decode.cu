#include <string>
#include <utility>

#include "decision.hpp"
#include "hffnet/cuda.hpp"
#include "runtime.hpp"
#include "tree.hpp"

namespace hffnet::cuda {
namespace {

constexpr unsigned kThreads = 64;

__global__ void decode_kernel(DecodeTable table, const float* logits, GpuDecisions out, double* log_p, double* share) {
  __shared__ DecodeShared shared;
  const std::size_t frame = blockIdx.x;
  const DecodePlaces places{out.leaf + frame,
                            out.sure + frame,
                            out.confidence + frame * table.depth,
                            out.probabilities + frame * table.num_columns,
                            log_p + frame * table.num_columns,
                            share + frame * table.num_leaves};
  decide(Block{}, table, logits + frame * table.num_columns, shared, places);
}

}  // namespace

struct GpuDecoder::Held {
  Taxonomy taxonomy;
  DecodeTable table{};
  DeviceArray<std::uint32_t> offsets, leaf_classes, leaf, sure;
  DeviceArray<double> temperatures, log_p, share, confidence, probabilities;
  DeviceArray<float> logits;

  explicit Held(Taxonomy tree) : taxonomy(std::move(tree)) {}
};

GpuDecoder::GpuDecoder(std::unique_ptr<Held> held) : held_(std::move(held)) {}
GpuDecoder::GpuDecoder(GpuDecoder&&) noexcept = default;
GpuDecoder& GpuDecoder::operator=(GpuDecoder&&) noexcept = default;
GpuDecoder::~GpuDecoder() = default;

Result<GpuDecoder> GpuDecoder::open(const Taxonomy& taxonomy, const DecodeSpec& spec) {
  ATTEMPT_DONE(find_gpu());
  ATTEMPT(const Tree tree, tree_from(taxonomy, spec));
  auto held = std::make_unique<Held>(taxonomy);
  ATTEMPT_DONE(held->offsets.fill_from(tree.offsets.data(), tree.offsets.size()));
  ATTEMPT_DONE(held->leaf_classes.fill_from(tree.leaf_classes.data(), tree.leaf_classes.size()));
  ATTEMPT_DONE(held->temperatures.fill_from(tree.temperatures.data(), tree.temperatures.size()));
  held->table = tree.table();
  held->table.offsets = held->offsets.data();
  held->table.leaf_classes = held->leaf_classes.data();
  held->table.temperatures = held->temperatures.data();
  return GpuDecoder(std::move(held));
}

Status GpuDecoder::enqueue(const float* logits, std::size_t num_frames, const GpuDecisions& out, Stream stream) {
  if (num_frames == 0) return Done{};
  const DecodeTable& table = held_->table;
  ATTEMPT_DONE(held_->log_p.reserve(num_frames * table.num_columns));
  ATTEMPT_DONE(held_->share.reserve(num_frames * table.num_leaves));
  decode_kernel<<<static_cast<unsigned>(num_frames), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      table, logits, out, held_->log_p.data(), held_->share.data());
  return check(cudaGetLastError(), "enqueue decode");
}

Result<std::vector<Decision>> GpuDecoder::operator()(std::span<const float> logits) {
  const DecodeTable& table = held_->table;
  const std::size_t num_frames = logits.size() / table.num_columns;
  if (num_frames * table.num_columns != logits.size()) {
    return Failure{Error::kConfig, std::to_string(logits.size()) + " logits were given; a multiple of " +
                                       std::to_string(table.num_columns) + " is expected"};
  }
  ATTEMPT_DONE(held_->logits.fill_from(logits.data(), logits.size()));
  ATTEMPT_DONE(held_->leaf.reserve(num_frames));
  ATTEMPT_DONE(held_->sure.reserve(num_frames));
  ATTEMPT_DONE(held_->confidence.reserve(num_frames * table.depth));
  ATTEMPT_DONE(held_->probabilities.reserve(num_frames * table.num_columns));
  const GpuDecisions out{held_->leaf.data(), held_->sure.data(), held_->confidence.data(), held_->probabilities.data()};
  ATTEMPT_DONE(enqueue(held_->logits.data(), num_frames, out, nullptr));
  Answers answers(num_frames, table);
  ATTEMPT_DONE(held_->leaf.copy_to(answers.leaf.data(), answers.leaf.size()));
  ATTEMPT_DONE(held_->sure.copy_to(answers.sure.data(), answers.sure.size()));
  ATTEMPT_DONE(held_->confidence.copy_to(answers.confidence.data(), answers.confidence.size()));
  ATTEMPT_DONE(held_->probabilities.copy_to(answers.probabilities.data(), answers.probabilities.size()));
  std::vector<Decision> decisions;
  for (std::size_t n = 0; n < num_frames; ++n) decisions.push_back(decision_from(answers, n, held_->taxonomy));
  return decisions;
}

}  // namespace hffnet::cuda
