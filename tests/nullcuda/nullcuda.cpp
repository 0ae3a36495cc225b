// A CUDA device that computes nothing: runtime, driver, cuBLAS, cuDNN and NCCL as one preloaded
// library.
//
// Memory of the device is memory of the host, mapped when it is touched, and accounted for. Kernels
// are counted and not run; values on the device are whatever the memory holds. Stream capture obeys
// CUDA's rules: what a real capture refuses is refused here, or counted as a violation, and
// printed. So PyTorch's own allocator, autograd, autocast, fused optimisers and graphs run as they
// would. It shows crashes, waits of the host, what a capture refuses, kernels, launches and memory;
// not numbers, times or cuDNN's engines.
//
// Here is what PyTorch calls in the tests, under its own names. Anything else goes to the real
// library, which says that there is no driver. A function leaves out arguments at its end that it
// has no use for.
//
// Environment: NULLCUDA_COUNT devices (1), of 80 GiB each.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <driver_types.h>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <vector>

static std::recursive_mutex mutex;
#define LOCK std::lock_guard<std::recursive_mutex> lock(mutex)

#define API extern "C" __attribute__((visibility("default")))
// A function that does nothing, and returns 0.
#define SUCCEED(name)                                                                              \
  API int name() { return 0; }
// One that stores a value through its argument `to`.
#define STORE(name, arguments, value)                                                              \
  API int name arguments {                                                                         \
    *to = value;                                                                                   \
    return 0;                                                                                      \
  }
// One that makes something opaque, and stores it through its first argument.
#define CREATE(name) STORE(name, (void **to), calloc(1, 4096))
// Another name of one.
#define ALIAS(name, arguments, of) API int name arguments __attribute__((alias(#of)));
// One that launches a kernel on its argument `stream`, or on the stream of its argument `handle`.
#define LAUNCH(name, arguments)                                                                    \
  API int name arguments { return work(stream, #name); }
#define LAUNCH_BY_HANDLE(name)                                                                     \
  API int name(void *handle) { return work(stream_of(handle), #name); }

// ---------------------------------------------------------------- what is counted

extern "C" {
// tests/programs/kernels.py reads it, and sets it back.
struct {
  long total, captured, violations, graph_launches, bytes, peak;
} nullcuda;
}

// ---------------------------------------------------------------- a capture and its rules

struct Stream {
  long capture = 0;     // the number of the one that it is part of; 0: none
  long work = 0;        // pieces of work so far
  long waited_for = 0;  // so many of them another stream waits for
};
struct Event {
  Stream *stream = nullptr;  // that it was recorded on
  long capture, after;       // of which capture; after how many pieces of work
};
struct Capture {  // one at a time
  long number = 0;
  bool active = false, spoilt = false;
  int mode;
  Stream *origin;
  pthread_t thread;
};
static Capture capture;
static Stream legacy;
static std::vector<Stream *> streams;
static thread_local int thread_mode = cudaStreamCaptureModeGlobal;
static thread_local cudaError_t last_error = cudaSuccess;

static int fail(cudaError_t error) { return last_error = error; }

API int cudaGetLastError() {
  int error = last_error;
  last_error = cudaSuccess;
  return error;
}

static void violation(const std::string &what) {
  LOCK;
  nullcuda.violations++;
  fprintf(stderr, "nullcuda: %s\n", what.c_str());
}

// What cannot be in a capture fails, and so will the capture.
static int spoil(const std::string &what, cudaError_t error) {
  violation(what);
  capture.spoilt = true;
  return fail(error);
}

// A call that CUDA forbids during a capture, in its thread or in all; 0 where it may be made.
static int forbidden(const char *call) {
  LOCK;
  if (!capture.active || thread_mode == cudaStreamCaptureModeRelaxed) return 0;
  int global = cudaStreamCaptureModeGlobal;
  bool refused = capture.thread == pthread_self() ? capture.mode != cudaStreamCaptureModeRelaxed
                                                  : capture.mode == global && thread_mode == global;
  if (!refused) return 0;
  return spoil(std::string(call) + " during a capture", cudaErrorStreamCaptureUnsupported);
}

static Stream *at(cudaStream_t stream) {
  return (size_t)stream <= 2 ? &legacy : (Stream *)stream;  // CUDA has numbers for it too
}

static int work(cudaStream_t stream, const char *what) {
  LOCK;
  nullcuda.total++;
  at(stream)->work++;
  if (at(stream)->capture)
    nullcuda.captured++;
  else if (capture.active)
    violation(std::string(what) + " during a capture, on a stream that is not captured");
  return 0;
}

// ---------------------------------------------------------------- device

static const char *count = getenv("NULLCUDA_COUNT");
static const int devices = count ? atoi(count) : 1;
static const long memory = 80l << 30;
static thread_local int device = 0;

STORE(cudaGetDeviceCount, (int *to), devices)
STORE(cudaGetDevice, (int *to), device)
API int cudaSetDevice(int number) {
  if (number < 0 || number >= devices) return fail(cudaErrorInvalidDevice);
  device = number;
  return 0;
}
API int cudaGetDeviceProperties(cudaDeviceProp *to) {
  memset(to, 0, sizeof *to);
  strcpy(to->name, "Null GPU");
  to->major = 9;
  to->totalGlobalMem = memory;
  to->multiProcessorCount = 132;
  to->warpSize = 32;
  to->maxThreadsPerBlock = 1024;
  to->maxThreadsPerMultiProcessor = 2048;
  to->sharedMemPerBlock = 49152;
  to->sharedMemPerBlockOptin = 232448;
  to->maxGridSize[0] = INT32_MAX;
  to->maxGridSize[1] = to->maxGridSize[2] = 65535;
  return 0;
}
API int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0;
  *greatest = -5;
  return 0;
}
API int cudaDeviceSynchronize() { return forbidden("cudaDeviceSynchronize"); }

STORE(cuCtxGetCurrent, (void **to), &legacy)
STORE(cuDevicePrimaryCtxGetState, (int, int *, int *to), 1)
SUCCEED(any_other)
API int cudaGetDriverEntryPointByVersion(const char *name, void **to, int, long, int *status) {
  void *found = dlsym(RTLD_DEFAULT, name);
  *to = found ? found : (void *)any_other;
  if (status) *status = 0;
  return 0;
}

// ---------------------------------------------------------------- memory

typedef std::map<const char *, size_t> Blocks;  // sizes by first byte
static Blocks on_device, pinned;

static bool within(const Blocks &blocks, const void *address) {
  LOCK;
  auto block = blocks.upper_bound((const char *)address);
  if (block == blocks.begin()) return false;
  block--;
  return (const char *)address < block->first + block->second;
}

API int cudaMemGetInfo(size_t *unused, size_t *all) {
  *all = memory;
  *unused = memory - nullcuda.bytes;
  return 0;
}
API int cudaMalloc(void **to, size_t size) {
  if (int error = forbidden("cudaMalloc")) return error;
  LOCK;
  if (nullcuda.bytes + (long)size > memory) return fail(cudaErrorMemoryAllocation);
  *to = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (*to == MAP_FAILED) return fail(cudaErrorMemoryAllocation);
  on_device[(char *)*to] = size;
  nullcuda.bytes += size;
  nullcuda.peak = std::max(nullcuda.peak, nullcuda.bytes);
  return 0;
}
API int cudaFree(void *address) {
  if (int error = forbidden("cudaFree")) return error;
  LOCK;
  auto block = on_device.find((char *)address);
  if (block == on_device.end()) return 0;
  munmap(address, block->second);
  nullcuda.bytes -= block->second;
  on_device.erase(block);
  return 0;
}
API int cudaHostAlloc(void **to, size_t size) {
  if (int error = forbidden("cudaHostAlloc")) return error;
  LOCK;
  *to = calloc(1, size);
  pinned[(char *)*to] = size;
  return 0;
}
API int cudaFreeHost(void *address) {
  LOCK;
  pinned.erase((char *)address);
  free(address);
  return 0;
}
API int cudaPointerGetAttributes(cudaPointerAttributes *to, const void *address) {
  memset(to, 0, sizeof *to);
  if (within(on_device, address)) to->type = cudaMemoryTypeDevice;
  if (within(pinned, address)) to->type = cudaMemoryTypeHost;
  to->device = device;
  return 0;
}
API int cudaMemcpyAsync(void *to, const void *from, size_t size, int, cudaStream_t stream) {
  bool capturing = at(stream)->capture;
  for (const void *end : {(const void *)to, from})
    if (capturing && !within(on_device, end) && !within(pinned, end))
      violation("a copy from or to pageable memory in a capture");
  if (!capturing) memmove(to, from, size);
  return work(stream, "a copy");
}
LAUNCH(cudaMemsetAsync, (void *, int, size_t, cudaStream_t stream))

// ---------------------------------------------------------------- streams and events

API int cudaStreamCreateWithPriority(Stream **to) {
  LOCK;
  streams.push_back(*to = new Stream);
  return 0;
}
API int cudaStreamSynchronize(cudaStream_t stream) {
  if (!at(stream)->capture) return forbidden("cudaStreamSynchronize");
  return spoil("cudaStreamSynchronize of a captured stream", cudaErrorStreamCaptureUnsupported);
}

STORE(cudaEventCreateWithFlags, (Event **to), new Event)
API int cudaEventDestroy(Event *event) {
  delete event;
  return 0;
}
API int cudaEventRecord(Event *event, cudaStream_t stream) {
  LOCK;
  event->stream = at(stream);
  event->capture = event->stream->capture;
  event->after = event->stream->work;
  return 0;
}
ALIAS(cudaEventRecordWithFlags, (Event *, cudaStream_t), cudaEventRecord)
static bool in_capture(const Event *event) {
  return capture.active && event->stream && event->capture == capture.number;
}
API int cudaEventQuery(Event *event) {
  if (!in_capture(event)) return forbidden("cudaEventQuery");
  return spoil("cudaEventQuery of a captured event", cudaErrorCapturedEvent);
}
API int cudaStreamWaitEvent(cudaStream_t waiting, Event *event) {
  LOCK;
  Stream *stream = at(waiting);
  if (!event->stream || (!stream->capture && !in_capture(event))) return 0;
  if (!in_capture(event))
    return spoil("a captured stream waits for work that is not", cudaErrorStreamCaptureIsolation);
  if (stream == &legacy)
    return spoil("the legacy stream waits for captured work", cudaErrorStreamCaptureImplicit);
  // A stream becomes part of the capture by waiting, which itself must be waited for.
  if (!stream->capture) *stream = {capture.number, 1, 0};
  if (event->stream != stream)
    event->stream->waited_for = std::max(event->stream->waited_for, event->after);
  return 0;
}

// ---------------------------------------------------------------- captures and graphs

API int cudaThreadExchangeStreamCaptureMode(int *mode) {
  std::swap(*mode, thread_mode);
  return 0;
}
API int cudaStreamBeginCapture(cudaStream_t stream, int mode) {
  LOCK;
  if (at(stream) == &legacy)
    return spoil("a capture of the legacy stream", cudaErrorStreamCaptureUnsupported);
  capture = {capture.number + 1, true, false, mode, at(stream), pthread_self()};
  at(stream)->capture = capture.number;
  return 0;
}
API int cudaStreamEndCapture(cudaStream_t stream, void **graph) {
  LOCK;
  *graph = nullptr;
  if (!capture.active || at(stream) != capture.origin)
    return spoil("the end of a capture that is not there", cudaErrorIllegalState);
  bool joined = true;
  for (Stream *other : streams) {
    if (other->capture && other != capture.origin) joined &= other->waited_for == other->work;
    other->capture = 0;
  }
  capture.active = false;
  if (capture.spoilt) return fail(cudaErrorStreamCaptureInvalidated);
  if (!joined) return spoil("a captured stream was not joined", cudaErrorStreamCaptureUnjoined);
  *graph = calloc(1, 8);
  return 0;
}
static int status_of(cudaStream_t stream) {
  if (!at(stream)->capture) return cudaStreamCaptureStatusNone;
  return capture.spoilt ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
}
STORE(cudaStreamIsCapturing, (cudaStream_t stream, int *to), status_of(stream))
API int cudaStreamGetCaptureInfo(cudaStream_t stream, int *to, long *number, void **graph) {
  *to = status_of(stream);
  if (number) *number = at(stream)->capture;
  if (graph) *graph = &capture;
  return 0;
}
STORE(cudaGraphGetNodes, (void *, void *, size_t *to), 1)
SUCCEED(cudaGraphDestroy)
SUCCEED(cudaGraphExecDestroy)
API int cudaGraphInstantiateWithFlags(void **to) {
  *to = calloc(1, 8);
  return forbidden("cudaGraphInstantiate");
}
API int cudaGraphLaunch(void *, cudaStream_t stream) {
  nullcuda.graph_launches++;
  return work(stream, "a graph");
}

// ---------------------------------------------------------------- kernels

static std::map<const void *, std::string> names;

API void __cudaRegisterFunction(void *, const void *kernel, void *, const char *name) {
  LOCK;
  names[kernel] = name;
}
API void *__cudaRegisterFatBinary() {
  static void *binary;
  return &binary;
}
SUCCEED(__cudaRegisterFatBinaryEnd)
SUCCEED(__cudaUnregisterFatBinary)
SUCCEED(__cudaRegisterVar)
STORE(__cudaGetKernel, (const void **to, const void *kernel), kernel)

struct Configuration {  // of a launch, from <<< >>>
  dim3 grid, block;
  size_t shared;
  void *stream;
};
static thread_local Configuration pushed;
API int __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
  pushed = {grid, block, shared, stream};
  return 0;
}
API int __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void **stream) {
  *grid = pushed.grid;
  *block = pushed.block;
  *shared = pushed.shared;
  *stream = pushed.stream;
  return 0;
}
API int __cudaLaunchKernel(const void *kernel, dim3 grid, dim3, void *, size_t,
                           cudaStream_t stream) {
  if (!grid.x || !grid.y || !grid.z) return fail(cudaErrorInvalidConfiguration);
  LOCK;
  return work(stream, names[kernel].c_str());
}

// ---------------------------------------------------------------- cuBLAS and cuDNN

static cudaStream_t &stream_of(void *handle) {
  LOCK;
  static std::map<void *, cudaStream_t> streams;
  return streams[handle];
}

CREATE(cublasCreate_v2)
SUCCEED(cublasSetMathMode)
SUCCEED(cublasSetWorkspace_v2)
API int cublasSetStream_v2(void *handle, cudaStream_t stream) {
  stream_of(handle) = stream;
  return 0;
}
LAUNCH_BY_HANDLE(cublasSgemm_v2)
LAUNCH_BY_HANDLE(cublasSgemmStridedBatched)
LAUNCH_BY_HANDLE(cublasSgemv_v2)

CREATE(cudnnCreate)
ALIAS(cudnnSetStream, (void *, cudaStream_t), cublasSetStream_v2)
STORE(cudnnBackendCreateDescriptor, (int, void **to), calloc(1, 8))
SUCCEED(cudnnBackendDestroyDescriptor)
SUCCEED(cudnnBackendFinalize)
SUCCEED(cudnnBackendSetAttribute)
// A single engine, which computes everything; the numbers are those of cudnn_graph.h.
API int cudnnBackendGetAttribute(void *, int attribute, int, int64_t, int64_t *count, int64_t *to) {
  enum { RESULTS = 202, ENGINE = 300, WORKSPACE_SIZE = 402, ENGINE_INDEX = 1301 };
  bool number = attribute == WORKSPACE_SIZE || attribute == ENGINE_INDEX;
  if (number) *to = attribute == WORKSPACE_SIZE ? 1 << 20 : 0;
  if (count) *count = number || attribute == RESULTS || attribute == ENGINE;
  return 0;
}
LAUNCH_BY_HANDLE(cudnnBackendExecute)

// ---------------------------------------------------------------- NCCL

CREATE(ncclCommInitRankConfig)
STORE(ncclGetVersion, (int *to), 22705)
STORE(ncclCommGetAsyncError, (void *, int *to), 0)
SUCCEED(ncclGetUniqueId)
SUCCEED(ncclCommFinalize)
SUCCEED(ncclCommDestroy)
LAUNCH(ncclAllReduce, (void *, void *, size_t, int, int, void *, cudaStream_t stream))
LAUNCH(ncclBroadcast, (void *, void *, size_t, int, int, void *, cudaStream_t stream))
