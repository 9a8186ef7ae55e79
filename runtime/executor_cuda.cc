// The executor of a CUDA device: one kernel per step, but for the steps of a decode forward, which are one kernel where
// kernels/stream can do them. Each program is captured into a graph once; its lanes are branches of the graph, and
// programs follow each other on one stream. So a wait for what an earlier program recorded is met
// already, and what is left of a round on the host is one launch and one event.
#ifdef TANDEM_CUDA
#include <cuda_runtime.h>

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/linear/linear_library.h"
#include "kernels/stream/stream.h"
#include "runtime/executor.h"
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
  }

  ~CudaExecutor() override {
    cudaSetDevice(device_.cuda_index);
    cudaStreamSynchronize(main());
    for (const auto& [program, graph] : graphs_) cudaGraphExecDestroy(graph);
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
    TANDEM_RETURN_IF_ERROR(Checked("preparing a program"));
    cudaStreamBeginCapture(main(), cudaStreamCaptureModeThreadLocal);
    const absl::Status captured = Capture(program, streams);
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(main(), &graph);
    TANDEM_RETURN_IF_ERROR(captured);
    TANDEM_RETURN_IF_ERROR(Checked("capturing a graph"));
    cudaGraphExec_t executable = nullptr;
    cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    TANDEM_RETURN_IF_ERROR(Checked("making a graph"));
    cudaGraphUpload(executable, main());
    graphs_[&program] = executable;
    return Checked("uploading a graph");
  }

  void Enqueue(const Program& program) override {
    if (!failure_.ok()) return;
    if (check_steps_) {
      RunChecked(program);
    } else {
      if (n_enqueued_ >= kQueue && !WaitFor(kQueue - 1).ok()) return;
      const auto graph = graphs_.find(&program);
      TANDEM_CHECK(graph != graphs_.end()) << "a program that was not prepared";
      cudaGraphLaunch(graph->second, main());
      cudaEventRecord(finished_[n_enqueued_ % kQueue], main());
      failure_ = Checked("starting a program");
    }
    ++n_enqueued_;
  }

  absl::Status WaitFor(int n_pending) override {
    if (check_steps_ || !failure_.ok() || n_enqueued_ <= static_cast<uint64_t>(n_pending)) return failure_;
    const cudaEvent_t finished = finished_[(n_enqueued_ - n_pending - 1) % kQueue];
    // A round takes milliseconds, its end is wanted within microseconds, and the host has nothing else to do.
    cudaError_t error;
    while ((error = cudaEventQuery(finished)) == cudaErrorNotReady) std::this_thread::yield();
    if (error != cudaSuccess) failure_ = Failed("running a program", error);
    return failure_;
  }

  bool runs_ahead() const override { return !check_steps_; }

  // Known only where every step is waited for.
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
  absl::Status Checked(const std::string& doing) const {
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? absl::OkStatus() : Failed(doing, error);
  }

  static bool HasProducts(const Program& program) {
    return std::any_of(program.steps().begin(), program.steps().end(),
                       [](const Step& step) { return step.op == Op::kLinear; });
  }

  // Runs of a program's steps that are one kernel, by their first step.
  struct StreamRun {
    const StreamKernel* kernel;
    size_t n_steps;
  };
  using Streams = std::map<size_t, StreamRun>;
  Streams FindStreams(const Program& program) {
    Streams streams;
    if (!stream_kernels_) return streams;
    for (size_t i = 0; i < program.steps().size();) {
      size_t n_steps = 1;
      auto kernel = program.steps()[i].op == Op::kLinear ? StreamKernel::Make(program, i, &n_steps) : nullptr;
      if (kernel != nullptr) {
        streams[i] = {kernel.get(), n_steps};
        stream_kernels_of_.push_back(std::move(kernel));
      }
      i += std::max<size_t>(n_steps, 1);
    }
    return streams;
  }

  // The steps of a program on the lanes' streams, which are being captured.
  absl::Status Capture(const Program& program, const Streams& streams) {
    cudaEventRecord(fork_, main());
    cudaStreamWaitEvent(other(), fork_, 0);
    bool recorded[kMaxEvents] = {};
    for (size_t i = 0; i < program.steps().size(); ++i) {
      const Step& step = program.steps()[i];
      const CudaStream lane = lanes_[static_cast<int>(step.lane)];
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
      TANDEM_RETURN_IF_ERROR(Checked(absl::StrCat("recording step ", Name(step.op))));
    }
    cudaEventRecord(join_, other());
    cudaStreamWaitEvent(main(), join_, 0);
    return Checked("joining the lanes");
  }

  static int64_t NsOf(std::chrono::steady_clock::duration duration) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
  }

  void RunChecked(const Program& program) {
    for (const Step& step : program.steps()) {
      if (step.op == Op::kRecord || step.op == Op::kWait) continue;
      const auto begin = std::chrono::steady_clock::now();
      failure_ = LaunchCudaStep(program, step, library_.get(), main());
      cudaStreamSynchronize(main());
      if (failure_.ok()) failure_ = Checked(absl::StrCat("step ", Name(step.op)));
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
  std::map<const Program*, cudaGraphExec_t> graphs_;
  std::vector<std::unique_ptr<StreamKernel>> stream_kernels_of_;  // the graphs'
  uint64_t n_enqueued_ = 0;
  PhaseTimes times_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Executor>> NewCudaExecutor(const ExecutorOptions& options) {
  return std::make_unique<CudaExecutor>(options);
}

}  // namespace tandem
#endif  // TANDEM_CUDA
