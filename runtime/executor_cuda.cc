// The executor of a CUDA device: one kernel per step, but for the steps of a decode forward, which are one kernel where
// kernels/stream can do them. Each program is captured into a graph once; its lanes are branches of the graph, and
// programs follow each other on one stream. So a wait for what an earlier program recorded is met
// already, and what is left of a round on the host is one launch and one event.
#ifdef TANDEM_CUDA
#include <cuda_runtime.h>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "kernels/linear/linear_library.h"
#include "kernels/stream/stream.h"
#include "runtime/executor.h"
#include "runtime/lane_order.h"
#include "runtime/nvtx_range.h"
#include "runtime/phase_stamps.h"
#include "runtime/stamp_plan.h"
#include "runtime/steps.h"
#include "runtime/trace.h"

namespace tandem {

namespace {

constexpr int kMaxEvents = 16;
constexpr uint64_t kQueue = 64;  // programs enqueued and unfinished

class CudaExecutor final : public Executor {
 public:
  explicit CudaExecutor(const ExecutorOptions& options)
      : device_(options.device),
        check_steps_(options.check_steps),
        stream_kernels_(options.stream_kernels),
        trace_(options.trace) {
    cudaSetDevice(device_.cuda_index);
    for (cudaStream_t& stream : lanes_) cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    for (cudaEvent_t& event : events_) cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    for (cudaEvent_t& event : finished_) cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    for (cudaEvent_t* event : {&fork_, &join_}) cudaEventCreateWithFlags(event, cudaEventDisableTiming);
    failure_ = Checked("starting");
    if (!failure_.ok() || check_steps_ || !(options.time_phases || trace_ != nullptr)) return;
    stamps_ = std::make_unique<PhaseStamps>(device_, static_cast<int32_t>(kQueue), main());
    failure_ = Checked("reading the device's clock");
  }

  ~CudaExecutor() override {
    cudaSetDevice(device_.cuda_index);
    cudaStreamSynchronize(main());
    for (const auto& [program, graph] : graphs_) cudaGraphExecDestroy(graph.executable);
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
    for (cudaEvent_t event : finished_) cudaEventDestroy(event);
    for (cudaEvent_t event : {fork_, join_}) cudaEventDestroy(event);
    for (cudaStream_t stream : lanes_) cudaStreamDestroy(stream);
  }

  absl::Status Prepare(const Program& program) override {
    TANDEM_RETURN_IF_ERROR(failure_);
    cudaSetDevice(device_.cuda_index);
    if (library_ == nullptr && HasProducts(program)) library_ = LinearLibrary::Make();
    if (check_steps_) return absl::OkStatus();
    const Streams streams = FindStreams(program);
    StampPlan stamps;
    if (stamps_ != nullptr) stamps = PlanStamps(program);
    TANDEM_CHECK(stamps.stamps.size() <= PhaseStamps::kMost)
        << "a program with " << stamps.stamps.size() << " stamps";
    TANDEM_RETURN_IF_ERROR(Checked(absl::StrCat("preparing ", program.name())));
    cudaStreamBeginCapture(main(), cudaStreamCaptureModeThreadLocal);
    const absl::Status captured = Capture(program, streams, stamps);
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(main(), &graph);
    TANDEM_RETURN_IF_ERROR(captured);
    TANDEM_RETURN_IF_ERROR(Checked(absl::StrCat("capturing the graph of ", program.name())));
    cudaGraphExec_t executable = nullptr;
    cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    TANDEM_RETURN_IF_ERROR(Checked(absl::StrCat("making the graph of ", program.name())));
    cudaGraphUpload(executable, main());
    graphs_[&program] = {executable, std::move(stamps)};
    return Checked(absl::StrCat("uploading the graph of ", program.name()));
  }

  void Enqueue(const Program& program) override {
    if (!failure_.ok()) return;
    if (!check_steps_ && n_enqueued_ >= kQueue && !WaitFor(kQueue - 1).ok()) return;
    const NvtxRange range(program.name());
    if (check_steps_) {
      RunChecked(program);
      ++n_enqueued_;
      return;
    }
    const auto graph = graphs_.find(&program);
    TANDEM_CHECK(graph != graphs_.end()) << "a program that was not prepared";
    const bool was_late = stamps_ != nullptr && DeviceIsDone();
    executions_[n_enqueued_ % kQueue] = {&program, &graph->second.stamps, was_late};
    cudaGraphLaunch(graph->second.executable, main());
    cudaEventRecord(finished_[n_enqueued_ % kQueue], main());
    ++n_enqueued_;
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) failure_ = FailedRunning(error);
  }

  absl::Status WaitFor(int n_pending) override {
    if (check_steps_ || !failure_.ok() || n_enqueued_ <= static_cast<uint64_t>(n_pending)) return failure_;
    const cudaEvent_t finished = finished_[(n_enqueued_ - n_pending - 1) % kQueue];
    // A round takes milliseconds, its end is wanted within microseconds, and the host has nothing else to do.
    cudaError_t error;
    while ((error = cudaEventQuery(finished)) == cudaErrorNotReady) std::this_thread::yield();
    if (error == cudaSuccess) {
      Finish(n_enqueued_ - n_pending);
    } else {
      failure_ = FailedRunning(error);
    }
    return failure_;
  }

  bool runs_ahead() const override { return !check_steps_; }

  PhaseTimes times() const override { return times_; }
  void ResetTimes() override { times_ = {}; }

 private:
  CudaStream main() const { return lanes_[static_cast<int>(Lane::kTarget)]; }
  CudaStream other() const { return lanes_[static_cast<int>(Lane::kDraft)]; }

  absl::Status Failed(const std::string& doing, cudaError_t error) const {
    return absl::InternalError(
        absl::StrCat(Name(device_), ": ", doing, " failed: ", cudaGetErrorString(error),
                     check_steps_ ? "" : "; execution.check_steps: true names the step that fails"));
  }
  // A device says that it failed, and not in what: it was one of the programs that have not finished.
  absl::Status FailedRunning(cudaError_t error) const {
    std::vector<std::string> names;
    for (uint64_t n = n_finished_; n < n_enqueued_; ++n) {
      const std::string& name = executions_[n % kQueue].program->name();
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
    return Failed(absl::StrCat("running ", absl::StrJoin(names, " or ")), error);
  }
  absl::Status Checked(const std::string& doing) const {
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? absl::OkStatus() : Failed(doing, error);
  }

  static bool HasProducts(const Program& program) {
    return std::any_of(program.steps().begin(), program.steps().end(),
                       [](const Step& step) { return step.op == Op::kLinear; });
  }

  // Runs of a program's steps that are one kernel, by their first step. No two of them at a time: a prefill's lanes run
  // beside each other.
  struct StreamRun {
    const StreamKernel* kernel;
    size_t n_steps;
  };
  using Streams = std::map<size_t, StreamRun>;
  Streams FindStreams(const Program& program) {
    Streams streams;
    if (!stream_kernels_) return streams;
    const std::vector<bool> follows = FollowsOtherLane(program);
    for (size_t i = 0; i < program.steps().size();) {
      size_t n_steps = 1;
      auto kernel = program.steps()[i].op == Op::kLinear && follows[i]
                        ? StreamKernel::Make(program, i, &n_steps)
                        : nullptr;
      if (kernel != nullptr) {
        streams[i] = {kernel.get(), n_steps};
        stream_kernels_of_.push_back(std::move(kernel));
      }
      i += std::max<size_t>(n_steps, 1);
    }
    return streams;
  }

  // The steps of a program, and its stamps, on the lanes' streams, which are being captured.
  absl::Status Capture(const Program& program, const Streams& streams, const StampPlan& stamps) {
    cudaEventRecord(fork_, main());
    cudaStreamWaitEvent(other(), fork_, 0);
    bool recorded[kMaxEvents] = {};
    int32_t n_stamps = 0;
    const auto stamp_until = [&](size_t step) {
      for (; n_stamps < std::ssize(stamps.stamps) && stamps.stamps[n_stamps].step <= step; ++n_stamps)
        stamps_->Stamp(n_stamps, lanes_[static_cast<int>(stamps.stamps[n_stamps].lane)]);
    };
    for (size_t i = 0; i < program.steps().size(); ++i) {
      const Step& step = program.steps()[i];
      const CudaStream lane = lanes_[static_cast<int>(step.lane)];
      stamp_until(i);
      if (const auto run = streams.find(i); run != streams.end()) {
        run->second.kernel->Launch(lane);
        TANDEM_RETURN_IF_ERROR(Checked("recording a forward"));
        i += run->second.n_steps - 1;
        continue;
      }
      if (step.op == Op::kRecord || step.op == Op::kWait) {
        const EventId event = *static_cast<const EventId*>(program.args(step));
        TANDEM_CHECK(event >= 0 && event < kMaxEvents) << "event " << event;
        if (step.op == Op::kRecord) {
          recorded[event] = true;
          cudaEventRecord(events_[event], lane);
        } else if (recorded[event]) {
          cudaStreamWaitEvent(lane, events_[event], 0);
        }
      } else {
        TANDEM_RETURN_IF_ERROR(LaunchCudaStep(program, step, library_.get(), lane));
      }
      TANDEM_RETURN_IF_ERROR(Checked(absl::StrCat("recording step ", Name(step.op), " of ", program.name())));
    }
    stamp_until(program.steps().size());
    cudaEventRecord(join_, other());
    cudaStreamWaitEvent(main(), join_, 0);
    if (stamps_ != nullptr) stamps_->HandOver(n_stamps, main());
    return Checked("joining the lanes");
  }

  // Whether all that was enqueued has finished: then the device waits for the host.
  bool DeviceIsDone() const {
    return n_enqueued_ == 0 || cudaEventQuery(finished_[(n_enqueued_ - 1) % kQueue]) == cudaSuccess;
  }

  // The first `n` executions have: reads the stamps of those whose end was not known yet.
  void Finish(uint64_t n) {
    for (; n_finished_ < n; ++n_finished_) {
      if (stamps_ == nullptr) continue;
      const Execution& execution = executions_[n_finished_ % kQueue];
      const int64_t* ns = stamps_->of(n_finished_);
      AddTimes(*execution.stamps, ns, execution.was_late ? -1 : last_stamp_ns_, &times_);
      if (trace_ != nullptr) AddSpans(*execution.stamps, ns, stamps_->offset_ns(), n_finished_, trace_);
      const size_t n_stamps = execution.stamps->stamps.size();
      if (n_stamps > 0) last_stamp_ns_ = *std::max_element(ns, ns + n_stamps);
    }
  }

  static int64_t NsOf(std::chrono::steady_clock::duration duration) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
  }

  void RunChecked(const Program& program) {
    const std::vector<PhaseLabel> labels = LabelsOf(program);
    std::optional<NvtxRange> range;
    PhaseLabel in_range = {};
    for (size_t i = 0; i < program.steps().size(); ++i) {
      const Step& step = program.steps()[i];
      if (step.op == Op::kRecord || step.op == Op::kWait) continue;
      if (!range || labels[i] != in_range) {
        range.reset();  // before the next one begins: ranges nest
        range.emplace(Name(labels[i]));
        in_range = labels[i];
      }
      const auto begin = std::chrono::steady_clock::now();
      failure_ = LaunchCudaStep(program, step, library_.get(), main());
      cudaStreamSynchronize(main());
      if (failure_.ok()) failure_ = Checked(absl::StrCat("step ", Name(step.op), " of ", program.name()));
      if (!failure_.ok()) return;
      const auto end = std::chrono::steady_clock::now();
      times_.ns[static_cast<int>(step.phase)] += NsOf(end - begin);
      if (trace_ != nullptr) {
        trace_->AddStep(step.lane, n_enqueued_, step.op, step.phase, NsOf(begin.time_since_epoch()),
                        NsOf(end.time_since_epoch()));
      }
    }
  }

  const Device device_;
  const bool check_steps_, stream_kernels_;
  StepTrace* const trace_;
  absl::Status failure_;  // the first error: a device that failed runs nothing any more
  cudaStream_t lanes_[kNumLanes] = {};
  cudaEvent_t events_[kMaxEvents] = {};
  cudaEvent_t finished_[kQueue] = {};
  cudaEvent_t fork_ = nullptr, join_ = nullptr;
  std::unique_ptr<LinearLibrary> library_;  // null: there is none
  struct Graph {
    cudaGraphExec_t executable;
    StampPlan stamps;
  };
  std::map<const Program*, Graph> graphs_;
  std::vector<std::unique_ptr<StreamKernel>> stream_kernels_of_;  // the graphs'
  uint64_t n_enqueued_ = 0;
  std::unique_ptr<PhaseStamps> stamps_;  // null: none are asked for
  struct Execution {
    const Program* program;
    const StampPlan* stamps;
    bool was_late;  // the device had nothing to do any more when this was enqueued
  };
  Execution executions_[kQueue] = {};
  uint64_t n_finished_ = 0;  // executions that are known to have
  int64_t last_stamp_ns_ = -1;
  PhaseTimes times_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Executor>> NewCudaExecutor(const ExecutorOptions& options) {
  return std::make_unique<CudaExecutor>(options);
}

}  // namespace tandem
#endif  // TANDEM_CUDA
