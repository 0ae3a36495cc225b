// A CUDA device that computes nothing: runtime, driver, cuBLAS, cuDNN and NCCL as one preloaded library.
//
// Memory of the device is memory of the host, mapped when it is touched, and accounted for. Kernels are
// counted by name and not run; values on the device are whatever the memory holds. Stream capture obeys
// CUDA's rules: what a real capture refuses is refused here, or noted as a violation. So PyTorch's own
// allocator, autograd, autocast, fused optimisers and graphs run as they would. It shows crashes, waits of
// the host, what a capture refuses, kernels, launches and memory; not numbers, times or cuDNN's engines.
//
// Environment: NULLCUDA_COUNT devices (1), NULLCUDA_MEM MiB each (81920), NULLCUDA_CC compute capability
// (90), NULLCUDA_ERROR what counting devices fails with (none), NULLCUDA_LOUD prints violations when they happen.
#include <driver_types.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <set>
#include <string>
#include <vector>
#include <mutex>
#include <sys/mman.h>
#include <execinfo.h>
#include <unistd.h>
typedef cudaError_t E;
#define API extern "C" __attribute__((visibility("default")))
static std::recursive_mutex mu;
#define LOCK std::lock_guard<std::recursive_mutex> lock(mu)
struct Stream {
  int id;
  unsigned long long cap = 0;
  bool origin = false;
  long ops = 0, joined = 0;
  unsigned flags = 0;
};
struct Event {
  unsigned long long cap = 0;
  bool recorded = false;
  Stream *s = nullptr;
  long at = 0;
  bool timing = true;
};
struct Capture {
  bool active = false;
  unsigned long long id = 0;
  int mode = 0;
  bool invalid = false;
  Stream *origin = nullptr;
  unsigned long tid = 0;
  long nodes = 0;
};
// One capture at a time.
static Capture C;
static Stream legacy{0};
static std::vector<Stream *> streams;
static thread_local int tmode = 0; // cudaStreamCaptureModeGlobal
static thread_local E last = cudaSuccess;
static std::map<const void *, std::string> names;
static std::map<std::string, long> counts, counts_cap; // launches, all and inside captures
static long violations = 0;
static std::vector<std::string> logs;
static std::map<char *, size_t> dev, pinned;
static size_t dev_bytes = 0, dev_peak = 0;
static long mallocs = 0;
static long graph_launches = 0;
static long outside = 0;
// MiB of NULLCUDA_MEM, or 80 GiB.
static size_t device_bytes() {
  const char *n = getenv("NULLCUDA_MEM");
  return (n ? atol(n) : 81920) * 1048576ull;
}
static E ret(E e) {
  if (e != cudaSuccess) last = e;
  return e;
}
static void note(const std::string &s) {
  LOCK;
  violations++;
  logs.push_back(s);
  if (getenv("NULLCUDA_LOUD")) fprintf(stderr, "NULLCUDA: %s\n", s.c_str());
  if (getenv("NULLCUDA_BT")) {
    void *b[40];
    int n = backtrace(b, 40);
    backtrace_symbols_fd(b, n, 2);
  }
}
// Whether a call that CUDA forbids during a capture is made during one; the capture is then lost.
static E unsafe(const char *what) {
  LOCK;
  if (!C.active) return cudaSuccess;
  bool mine = C.tid == (unsigned long)pthread_self();
  if (tmode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  bool bad = (mine && C.mode != cudaStreamCaptureModeRelaxed) ||
             (!mine && tmode == cudaStreamCaptureModeGlobal && C.mode == cudaStreamCaptureModeGlobal);
  if (bad) {
    C.invalid = true;
    note(std::string("unsafe call in capture: ") + what + (mine ? "" : " (other thread)"));
    return cudaErrorStreamCaptureUnsupported;
  }
  return cudaSuccess;
}
static Stream *S(cudaStream_t s) {
  if (!s || (size_t)s <= 2) return &legacy;
  return (Stream *)s;
}
static bool is_dev(const void *p) {
  LOCK;
  auto it = dev.upper_bound((char *)p);
  if (it == dev.begin()) return false;
  --it;
  return (char *)p < it->first + it->second;
}
static bool is_pin(const void *p) {
  LOCK;
  auto it = pinned.upper_bound((char *)p);
  if (it == pinned.begin()) return false;
  --it;
  return (char *)p < it->first + it->second;
}
static void work(Stream *s, const std::string &name) {
  LOCK;
  counts[name]++;
  s->ops++;
  if (s->cap) {
    counts_cap[name]++;
    C.nodes++;
  } else if (C.active && C.tid == (unsigned long)pthread_self()) {
    outside++;
    note("work on a stream that is not captured, during capture: " + name);
  } else if (C.active) {
    outside++;
    note("work of another thread on a stream that is not captured: " + name);
  }
}
// ---- control, from ctypes
API void nullcuda_reset() {
  LOCK;
  counts.clear();
  counts_cap.clear();
  violations = 0;
  logs.clear();
  outside = 0;
  mallocs = 0;
  dev_peak = dev_bytes;
  graph_launches = 0;
}
API long nullcuda_total() {
  LOCK;
  long n = 0;
  for (auto &k : counts)
    n += k.second;
  return n;
}
API long nullcuda_captured() {
  LOCK;
  long n = 0;
  for (auto &k : counts_cap)
    n += k.second;
  return n;
}
API long nullcuda_violations() { return violations; }
API long nullcuda_mallocs() { return mallocs; }
API long nullcuda_graph_launches() { return graph_launches; }
API long nullcuda_bytes() { return dev_bytes; }
API long nullcuda_peak() { return dev_peak; }
API void nullcuda_dump(const char *path, int cap) {
  LOCK;
  FILE *f = fopen(path, "w");
  for (auto &k : cap ? counts_cap : counts)
    fprintf(f, "%ld\t%s\n", k.second, k.first.c_str());
  for (auto &l : logs)
    fprintf(f, "LOG\t%s\n", l.c_str());
  fclose(f);
}
// ---- device
static int ndev() {
  const char *n = getenv("NULLCUDA_COUNT");
  return n ? atoi(n) : 1;
}
static thread_local int curdev = 0;
static std::map<char *, int> devof;
API E cudaGetDeviceCount(int *n) {
  *n = 0;
  if (const char *e = getenv("NULLCUDA_ERROR")) return ret((E)atoi(e));
  *n = ndev();
  return cudaSuccess;
}
API E cudaGetDevice(int *d) {
  *d = curdev;
  return cudaSuccess;
}
API E cudaSetDevice(int d) {
  if (d < 0 || d >= ndev()) return ret(cudaErrorInvalidDevice);
  curdev = d;
  return cudaSuccess;
}
API E cudaDriverGetVersion(int *v) {
  *v = 13000;
  return cudaSuccess;
}
API E cudaRuntimeGetVersion(int *v) {
  *v = 13000;
  return cudaSuccess;
}
static int capability() {
  const char *cc = getenv("NULLCUDA_CC");
  return cc ? atoi(cc) : 90;
}
API E cudaGetDeviceProperties(cudaDeviceProp *p, int) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "Null GPU");
  int c = capability();
  p->major = c / 10;
  p->minor = c % 10;
  p->multiProcessorCount = 132;
  p->warpSize = 32;
  p->maxThreadsPerMultiProcessor = 2048;
  p->maxThreadsPerBlock = 1024;
  p->sharedMemPerBlock = 49152;
  p->sharedMemPerBlockOptin = 232448;
  p->sharedMemPerMultiprocessor = 233472;
  p->totalGlobalMem = device_bytes();
  p->regsPerBlock = 65536;
  p->regsPerMultiprocessor = 65536;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->l2CacheSize = 50 << 20;
  p->textureAlignment = 512;
  p->maxBlocksPerMultiProcessor = 32;
  p->memoryBusWidth = 5120;
  return cudaSuccess;
}
API E cudaDeviceGetAttribute(int *v, int a, int) {
  switch (a) {
  case 1:
    *v = 1024;
    break;
  case 2:
  case 3:
    *v = 1024;
    break;
  case 4:
    *v = 64;
    break;
  case 5:
    *v = 2147483647;
    break;
  case 6:
  case 7:
    *v = 65535;
    break;
  case 8:
    *v = 49152;
    break;
  case 10:
    *v = 32;
    break;
  case 12:
    *v = 65536;
    break;
  case 16:
    *v = 132;
    break;
  case 39:
    *v = 2048;
    break;
  case 75:
    *v = 9;
    break;
  case 76:
    *v = 0;
    break;
  case 81:
    *v = 233472;
    break;
  case 82:
    *v = 65536;
    break;
  case 97:
    *v = 232448;
    break;
  case 106:
    *v = 32;
    break;
  case 38:
    *v = 50 << 20;
    break;
  default:
    *v = 0;
  }
  return cudaSuccess;
}
API E cudaDeviceGetPCIBusId(char *b, int n, int) {
  snprintf(b, n, "0000:00:00.0");
  return cudaSuccess;
}
API E cudaDeviceGetStreamPriorityRange(int *a, int *b) {
  if (a) *a = 0;
  if (b) *b = -5;
  return cudaSuccess;
}
API E cudaDeviceSynchronize() {
  if (E e = unsafe("cudaDeviceSynchronize")) return ret(e);
  return cudaSuccess;
}
API E cudaDeviceCanAccessPeer(int *v, int, int) {
  *v = 0;
  return cudaSuccess;
}
API E cudaGetLastError() {
  E e = last;
  last = cudaSuccess;
  return e;
}
API E cudaPeekAtLastError() { return last; }
API E cudaMemGetInfo(size_t *f, size_t *t) {
  *t = device_bytes();
  *f = *t - dev_bytes;
  return cudaSuccess;
}
// ---- memory
API E cudaMalloc(void **p, size_t n) {
  if (E e = unsafe("cudaMalloc")) return ret(e);
  LOCK;
  if (dev_bytes + n > device_bytes()) return ret(cudaErrorMemoryAllocation);
  void *q = mmap(0, n ? n : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (q == MAP_FAILED) return ret(cudaErrorMemoryAllocation);
  dev[(char *)q] = n;
  devof[(char *)q] = curdev;
  dev_bytes += n;
  mallocs++;
  if (dev_bytes > dev_peak) dev_peak = dev_bytes;
  *p = q;
  return cudaSuccess;
}
API E cudaFree(void *p) {
  if (!p) return cudaSuccess;
  if (E e = unsafe("cudaFree")) return ret(e);
  LOCK;
  auto it = dev.find((char *)p);
  if (it != dev.end()) {
    munmap(p, it->second ? it->second : 1);
    dev_bytes -= it->second;
    dev.erase(it);
  }
  return cudaSuccess;
}
API E cudaHostAlloc(void **p, size_t n, unsigned) {
  if (E e = unsafe("cudaHostAlloc")) return ret(e);
  LOCK;
  *p = aligned_alloc(4096, (n + 4095) / 4096 * 4096);
  memset(*p, 0, n);
  pinned[(char *)*p] = n;
  return cudaSuccess;
}
API E cudaFreeHost(void *p) {
  LOCK;
  pinned.erase((char *)p);
  free(p);
  return cudaSuccess;
}
API E cudaHostRegister(void *p, size_t n, unsigned) {
  LOCK;
  pinned[(char *)p] = n;
  return cudaSuccess;
}
API E cudaHostUnregister(void *p) {
  LOCK;
  pinned.erase((char *)p);
  return cudaSuccess;
}
API E cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p) {
  memset(a, 0, sizeof *a);
  if (is_dev(p)) {
    a->type = cudaMemoryTypeDevice;
    a->devicePointer = (void *)p;
    LOCK;
    auto it = devof.upper_bound((char *)p);
    --it;
    a->device = it->second;
  } else if (is_pin(p)) {
    a->type = cudaMemoryTypeHost;
    a->hostPointer = (void *)p;
    a->devicePointer = (void *)p;
  } else
    a->type = cudaMemoryTypeUnregistered;
  return cudaSuccess;
}
static E copy(void *d, const void *s, size_t n, cudaStream_t st, bool async, const char *what) {
  Stream *q = S(st);
  bool hd = !is_dev(d), hs = !is_dev(s);
  std::string name = std::string("memcpy") + (hs ? "H" : "D") + "to" + (hd ? "H" : "D");
  if (q->cap) {
    if ((hd && !is_pin(d)) || (hs && !is_pin(s)))
      note("copy from or to pageable memory in capture: " + name + " of " + std::to_string(n) + " bytes");
    if (!async) {
      C.invalid = true;
      note("synchronous copy in capture");
      return ret(cudaErrorStreamCaptureUnsupported);
    }
    work(q, name);
    return cudaSuccess;
  }
  if (!async)
    if (E e = unsafe(what)) return ret(e);
  work(q, name);
  if (n) memmove(d, s, n);
  return cudaSuccess;
}
API E cudaMemcpy(void *d, const void *s, size_t n, int) { return copy(d, s, n, 0, false, "cudaMemcpy"); }
API E cudaMemcpyAsync(void *d, const void *s, size_t n, int, cudaStream_t st) {
  return copy(d, s, n, st, true, "cudaMemcpyAsync");
}
API E cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t st) {
  Stream *q = S(st);
  work(q, "memset");
  return cudaSuccess;
}
API E cudaMemset(void *, int, size_t) {
  if (E e = unsafe("cudaMemset")) return ret(e);
  work(&legacy, "memset");
  return cudaSuccess;
}
// ---- streams, events
static E mk(cudaStream_t *s, unsigned f) {
  LOCK;
  Stream *q = new Stream;
  q->id = streams.size() + 1;
  q->flags = f;
  streams.push_back(q);
  *s = (cudaStream_t)q;
  return cudaSuccess;
}
API E cudaStreamCreate(cudaStream_t *s) { return mk(s, 0); }
API E cudaStreamCreateWithFlags(cudaStream_t *s, unsigned f) { return mk(s, f); }
API E cudaStreamCreateWithPriority(cudaStream_t *s, unsigned f, int) { return mk(s, f); }
API E cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
API E cudaStreamGetPriority(cudaStream_t, int *p) {
  *p = 0;
  return cudaSuccess;
}
API E cudaStreamSynchronize(cudaStream_t st) {
  Stream *q = S(st);
  if (q->cap) {
    C.invalid = true;
    note("cudaStreamSynchronize of a captured stream");
    return ret(cudaErrorStreamCaptureUnsupported);
  }
  if (E e = unsafe("cudaStreamSynchronize")) return ret(e);
  return cudaSuccess;
}
API E cudaStreamQuery(cudaStream_t st) {
  Stream *q = S(st);
  if (q->cap) {
    C.invalid = true;
    note("cudaStreamQuery of a captured stream");
    return ret(cudaErrorStreamCaptureUnsupported);
  }
  if (E e = unsafe("cudaStreamQuery")) return ret(e);
  return cudaSuccess;
}
API E cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f) {
  Event *v = new Event;
  v->timing = !(f & 2);
  *e = (cudaEvent_t)v;
  return cudaSuccess;
}
API E cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
API E cudaEventDestroy(cudaEvent_t e) {
  delete (Event *)e;
  return cudaSuccess;
}
API E cudaEventRecord(cudaEvent_t e, cudaStream_t st) {
  LOCK;
  Event *v = (Event *)e;
  Stream *q = S(st);
  v->recorded = true;
  v->cap = q->cap;
  v->s = q;
  v->at = q->ops;
  return cudaSuccess;
}
API E cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t st, unsigned) { return cudaEventRecord(e, st); }
API E cudaEventQuery(cudaEvent_t e) {
  Event *v = (Event *)e;
  if (v->cap && C.active && v->cap == C.id) {
    note("cudaEventQuery of a captured event");
    return ret(cudaErrorCapturedEvent);
  }
  if (E x = unsafe("cudaEventQuery")) return ret(x);
  return cudaSuccess;
}
API E cudaEventSynchronize(cudaEvent_t e) {
  Event *v = (Event *)e;
  if (v->cap && C.active && v->cap == C.id) {
    note("cudaEventSynchronize of a captured event");
    return ret(cudaErrorCapturedEvent);
  }
  if (E x = unsafe("cudaEventSynchronize")) return ret(x);
  return cudaSuccess;
}
API E cudaEventElapsedTime(float *t, cudaEvent_t, cudaEvent_t) {
  *t = 0.1f;
  return cudaSuccess;
}
API E cudaStreamWaitEvent(cudaStream_t st, cudaEvent_t e, unsigned) {
  LOCK;
  Event *v = (Event *)e;
  Stream *q = S(st);
  if (!v->recorded) return cudaSuccess;
  if (q->cap && v->cap != q->cap) {
    C.invalid = true;
    note("captured stream waits for an event of uncaptured work (isolation)");
    return ret(cudaErrorStreamCaptureIsolation);
  }
  if (!q->cap && v->cap && C.active && v->cap == C.id) {
    if (q == &legacy) {
      C.invalid = true;
      note("legacy stream would depend on captured work (implicit)");
      return ret(cudaErrorStreamCaptureImplicit);
    }
    q->cap = C.id;
    q->ops = q->joined = 0;
    q->ops++;
  }
  if (q->cap && v->s && v->s != q && v->at > v->s->joined) v->s->joined = v->at;
  return cudaSuccess;
}
API E cudaStreamAddCallback(cudaStream_t, void *, void *, unsigned) { return cudaSuccess; }
API E cudaLaunchHostFunc(cudaStream_t st, void *, void *) {
  work(S(st), "hostfunc");
  return cudaSuccess;
}
// ---- capture
API E cudaThreadExchangeStreamCaptureMode(int *m) {
  int t = tmode;
  tmode = *m;
  *m = t;
  return cudaSuccess;
}
API E cudaStreamBeginCapture(cudaStream_t st, int mode) {
  LOCK;
  Stream *q = S(st);
  if (q == &legacy) {
    note("capture of the legacy stream");
    return ret(cudaErrorStreamCaptureUnsupported);
  }
  static unsigned long long ids = 0;
  C = Capture();
  C.active = true;
  C.id = ++ids;
  C.mode = mode;
  C.origin = q;
  C.tid = (unsigned long)pthread_self();
  q->cap = C.id;
  q->origin = true;
  return cudaSuccess;
}
API E cudaStreamEndCapture(cudaStream_t st, cudaGraph_t *g) {
  LOCK;
  Stream *q = S(st);
  if (!C.active || q != C.origin) {
    note("end of a capture that is not there");
    return ret(cudaErrorIllegalState);
  }
  bool unjoined = false;
  for (Stream *s : streams) {
    if (s != q && s->cap == C.id) {
      if (s->joined < s->ops) unjoined = true;
    }
    s->cap = 0;
    s->origin = false;
  }
  C.active = false;
  *g = 0;
  if (C.invalid) return ret(cudaErrorStreamCaptureInvalidated);
  if (unjoined) {
    note("a stream was not joined");
    return ret(cudaErrorStreamCaptureUnjoined);
  }
  *g = (cudaGraph_t)malloc(8);
  return cudaSuccess;
}
API E cudaStreamIsCapturing(cudaStream_t st, int *s) {
  Stream *q = S(st);
  *s = q->cap ? (C.invalid ? 2 : 1) : 0;
  return cudaSuccess;
}
API E cudaStreamGetCaptureInfo(cudaStream_t st, int *s, unsigned long long *id, cudaGraph_t *g,
                               const cudaGraphNode_t **d, const void **ed, size_t *n) {
  Stream *q = S(st);
  *s = q->cap ? (C.invalid ? 2 : 1) : 0;
  if (id) *id = q->cap;
  if (g) *g = (cudaGraph_t)&C;
  if (d) *d = 0;
  if (ed) *ed = 0;
  if (n) *n = 0;
  return cudaSuccess;
}
API E cudaGraphInstantiateWithFlags(cudaGraphExec_t *e, cudaGraph_t, unsigned long long) {
  if (E x = unsafe("cudaGraphInstantiate")) return ret(x);
  *e = (cudaGraphExec_t)malloc(8);
  return cudaSuccess;
}
API E cudaGraphLaunch(cudaGraphExec_t, cudaStream_t st) {
  graph_launches++;
  work(S(st), "graph launch");
  return cudaSuccess;
}
API E cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
API E cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }
API E cudaGraphGetNodes(cudaGraph_t, void *, size_t *n) {
  *n = C.nodes;
  return cudaSuccess;
}
API E cudaGraphRetainUserObject(cudaGraph_t, void *, unsigned, unsigned) { return cudaSuccess; }
API E cudaUserObjectCreate(void **o, void *, void *, unsigned, unsigned) {
  *o = malloc(8);
  return cudaSuccess;
}
API E cudaUserObjectRelease(void *, unsigned) { return cudaSuccess; }
// ---- kernels
typedef void (*Reg)(void **, const char *, char *, const char *, int, void *, void *, void *, void *, int *);
API void __cudaRegisterFunction(void **h, const char *f, char *d, const char *n, int t, void *a, void *b,
                                void *c, void *e, int *w) {
  LOCK;
  names[f] = n;
  (void)h;
}
API void **__cudaRegisterFatBinary(void *) {
  static void *x[8];
  return x;
}
API void __cudaRegisterFatBinaryEnd(void **) {}
API void __cudaUnregisterFatBinary(void **) {}
API void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int) {}
API E __cudaGetKernel(void **k, const void *f) {
  *k = (void *)f;
  return cudaSuccess;
}
struct Cfg {
  dim3 g, b;
  size_t m;
  void *s;
};
static thread_local Cfg cfg;
API unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t m, void *s) {
  cfg = {g, b, m, s};
  return 0;
}
API E __cudaPopCallConfiguration(dim3 *g, dim3 *b, size_t *m, void *s) {
  *g = cfg.g;
  *b = cfg.b;
  *m = cfg.m;
  *(void **)s = cfg.s;
  return cudaSuccess;
}
static E launch(const void *f, cudaStream_t st) {
  if (capability() < 70) return ret(cudaErrorNoKernelImageForDevice);  // older than PyTorch's kernels
  LOCK;
  auto it = names.find(f);
  work(S(st), it == names.end() ? "?" : it->second);
  return cudaSuccess;
}
API E cudaLaunchKernel(const void *f, dim3 g, dim3, void **, size_t, cudaStream_t s) {
  if (!g.x || !g.y || !g.z) return ret(cudaErrorInvalidConfiguration);
  return launch(f, s);
}
API E __cudaLaunchKernel(void *f, dim3 g, dim3, void **, size_t, cudaStream_t s) {
  if (!g.x || !g.y || !g.z) return ret(cudaErrorInvalidConfiguration);
  return launch(f, s);
}
API E cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **) {
  return launch(f, c->stream);
}
API E cudaFuncGetAttributes(cudaFuncAttributes *a, const void *) {
  memset(a, 0, sizeof *a);
  a->binaryVersion = 90;
  a->ptxVersion = 90;
  a->maxThreadsPerBlock = 1024;
  a->numRegs = 32;
  a->maxDynamicSharedSizeBytes = 49152;
  return cudaSuccess;
}
API E cudaFuncSetAttribute(const void *, int, int) { return cudaSuccess; }
API E cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *, int, size_t, unsigned) {
  *n = 2;
  return cudaSuccess;
}
API E cudaGetSymbolAddress(void **p, const void *) {
  static char z[1 << 16];
  *p = z;
  return cudaSuccess;
}
API E cudaMemcpyToSymbol(const void *, const void *, size_t, size_t, int) { return cudaSuccess; }
// ---- driver
API int cuInit(unsigned) { return 0; }
API int cuDevicePrimaryCtxGetState(int, unsigned *f, int *a) {
  if (f) *f = 0;
  *a = 1;
  return 0;
}
API int cuDeviceGet(int *d, int) {
  *d = 0;
  return 0;
}
API int cuCtxGetCurrent(void **c) {
  static int x;
  *c = &x;
  return 0;
}
API int cuCtxSetCurrent(void *) { return 0; }
API int cuDevicePrimaryCtxRetain(void **c, int) {
  static int x;
  *c = &x;
  return 0;
}
API int cuDeviceGetAttribute(int *v, int a, int d) { return cudaDeviceGetAttribute(v, a, d); }
API int cuGetErrorString(int, const char **s) {
  *s = "null driver";
  return 0;
}
API int cuPointerGetAttribute(void *d, int a, unsigned long long p) {
  *(unsigned long long *)d = 0;
  return 0;
}
#define Z(n)                                                                                                 \
  API int n() { return 0; }
Z(cuFuncGetAttribute)
Z(cuFuncSetAttribute) Z(cuFuncSetCacheConfig) Z(cuLaunchCooperativeKernel) Z(cuLaunchKernel)
    Z(cuLinkAddData_v2) Z(cuLinkComplete) Z(cuLinkCreate_v2) Z(cuModuleGetFunction) Z(cuModuleLoad)
        Z(cuModuleLoadData) Z(cuModuleLoadDataEx) Z(cuModuleUnload)
            Z(cuOccupancyMaxActiveBlocksPerMultiprocessor) Z(cuTensorMapEncodeTiled) Z(nullcu) API E
    cudaGetDriverEntryPointByVersion(const char *n, void **f, unsigned, unsigned long long, int *st) {
  void *p = dlsym(RTLD_DEFAULT, n);
  *f = p ? p : (void *)nullcu;
  if (st) *st = 0;
  return cudaSuccess;
}
// ---- cuBLAS
static std::map<void *, cudaStream_t> handle_stream;
API int cublasCreate_v2(void **h) {
  *h = malloc(64);
  return 0;
}
API int cublasSetStream_v2(void *h, cudaStream_t s) {
  LOCK;
  handle_stream[h] = s;
  return 0;
}
API int cublasGetMathMode(void *, int *m) {
  *m = 0;
  return 0;
}
API int cublasGetPointerMode_v2(void *, int *m) {
  *m = 0;
  return 0;
}
Z(cublasDestroy_v2)
Z(cublasSetMathMode) Z(cublasSetPointerMode_v2) Z(cublasSetSmCountTarget) Z(cublasSetWorkspace_v2)
#define G(n)                                                                                                 \
  API int n(void *h) {                                                                                       \
    LOCK;                                                                                                    \
    work(S(handle_stream[h]), #n);                                                                           \
    return 0;                                                                                                \
  }
    G(cublasSgemm_v2) G(cublasGemmEx) G(cublasSgemmEx) G(cublasGemmStridedBatchedEx)
        G(cublasSgemmStridedBatched) G(cublasSgemv_v2) G(cublasDgemm_v2) G(cublasSdot_v2) G(cublasDotEx) API
    int cublasLtMatmul(void *, void *, const void *, const void *, void *, const void *, void *, const void *,
                       void *, const void *, void *, void *, const void *, void *, size_t, cudaStream_t s) {
  work(S(s), "cublasLtMatmul");
  return 0;
}
API int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *, int n, void *r,
                                       int *c) {
  memset(r, 0, 96);
  *c = 1;
  return 0;
}
API int cublasLtMatmulDescCreate(void **d, int, int) {
  *d = calloc(1, 256);
  return 0;
}
API int cublasLtMatrixLayoutCreate(void **d, int, unsigned long, unsigned long, long) {
  *d = calloc(1, 256);
  return 0;
}
API int cublasLtMatmulPreferenceCreate(void **d) {
  *d = calloc(1, 256);
  return 0;
}
Z(cublasLtMatmulDescDestroy)
Z(cublasLtMatmulDescSetAttribute) Z(cublasLtMatmulPreferenceDestroy) Z(cublasLtMatmulPreferenceSetAttribute)
    Z(cublasLtMatrixLayoutDestroy) Z(cublasLtMatrixLayoutSetAttribute)
    // ---- cuDNN
    struct D {
  int type;
  std::map<int, std::pair<int64_t, std::string>> a;
};
static size_t esize(int t) {
  switch (t) {
  case 0:
    return 8; /*HANDLE*/
  case 1:
    return 4;
  case 2:
    return 1;
  case 3:
    return 8;
  case 4:
    return 4;
  case 5:
    return 8;
  case 6:
    return 8;
  default:
    break;
  }
  if (t == 15) return 8;
  if (t == 26) return 1;
  return t == 7 ? 4 : 4;
}
API int cudnnBackendCreateDescriptor(int t, void **d) {
  D *x = new D;
  x->type = t;
  *d = x;
  return 0;
}
API int cudnnBackendDestroyDescriptor(void *) { return 0; }
API int cudnnBackendFinalize(void *) { return 0; }
API int cudnnBackendInitialize(void *) { return 0; }
API int cudnnBackendSetAttribute(void *d, int n, int t, int64_t c, const void *v) {
  D *x = (D *)d;
  x->a[n] = {c, std::string((const char *)v, v ? c * esize(t) : 0)};
  return 0;
}
API int cudnnBackendGetAttribute(void *d, int n, int t, int64_t req, int64_t *c, void *v) {
  D *x = (D *)d;
  auto set = [&](int64_t k) {
    if (c) *c = k;
  };
  switch (n) {
  case 202:
    set(1);
    return 0;
  case 300:
    set(1);
    return 0;
  case 302:
  case 1302:
  case 1303:
  case 1305:
  case 1304:
  case 301:
    set(0);
    return 0;
  case 1301:
    set(1);
    if (v && req > 0) *(int64_t *)v = 0;
    return 0;
  case 802:
    set(1);
    if (v && req > 0) *(int64_t *)v = 1;
    return 0;
  case 402:
  case 303:
    set(1);
    if (v && req > 0) *(int64_t *)v = 1 << 20;
    return 0;
  case 405:
    set(1);
    if (v && req > 0) *(char *)v = 0;
    return 0;
  }
  auto it = x->a.find(n);
  if (it == x->a.end()) {
    set(0);
    return 0;
  }
  set(it->second.first);
  if (v && req > 0)
    memcpy(v, it->second.second.data(), std::min<size_t>(it->second.second.size(), req * esize(t)));
  return 0;
}
static std::string opname(D *plan) {
  auto e = plan->a.find(401);
  if (e == plan->a.end()) return "cudnn";
  return "cudnn";
}
API int cudnnBackendExecute(void *h, void *plan, void *) {
  LOCK;
  work(S(handle_stream[h]), "cudnnBackendExecute");
  return 0;
}
API int cudnnCreate(void **h) {
  *h = malloc(64);
  return 0;
}
API int cudnnDestroy(void *) { return 0; }
API int cudnnSetStream(void *h, cudaStream_t s) {
  LOCK;
  handle_stream[h] = s;
  return 0;
}
API int cudnnGetStream(void *h, cudaStream_t *s) {
  LOCK;
  *s = handle_stream[h];
  return 0;
}
#define CR(n)                                                                                                \
  API int n(void **d) {                                                                                      \
    *d = calloc(1, 512);                                                                                     \
    return 0;                                                                                                \
  }
CR(cudnnCreateTensorDescriptor)
CR(cudnnCreateFilterDescriptor) CR(cudnnCreateConvolutionDescriptor) CR(cudnnCreateActivationDescriptor)
    Z(cudnnDestroyTensorDescriptor) Z(cudnnDestroyFilterDescriptor) Z(cudnnDestroyActivationDescriptor)
        Z(cudnnSetTensorNdDescriptor) Z(cudnnSetFilterNdDescriptor) Z(cudnnSetActivationDescriptor) API
    int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(void *, int, int, void *, void *, void *,
                                                                 void *, void *, size_t *n) {
  *n = 1024;
  return 0;
}
API int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(void *, int, int, void *, void *, size_t *n) {
  *n = 1024;
  return 0;
}
API int cudnnGetBatchNormalizationBackwardExWorkspaceSize(void *, int, int, void *, void *, void *, void *,
                                                          void *, void *, void *, size_t *n) {
  *n = 1024;
  return 0;
}
#define DN(n)                                                                                                \
  API int n(void *h) {                                                                                       \
    LOCK;                                                                                                    \
    work(S(handle_stream[h]), #n);                                                                           \
    return 0;                                                                                                \
  }
DN(cudnnBatchNormalizationForwardTrainingEx)
DN(cudnnBatchNormalizationBackwardEx) DN(cudnnBatchNormalizationForwardInference)

    // ---- NCCL
    static std::map<void *, int> comm_rank;
API int ncclGetUniqueId(void *id) {
  memset(id, 1, 128);
  return 0;
}
API int ncclGetVersion(int *v) {
  *v = 22705;
  return 0;
}
API const char *ncclGetErrorString(int) { return "null"; }
API const char *ncclGetLastError(void *) { return ""; }
struct Id {
  char b[128];
};
static size_t nsz(int t) {
  static size_t z[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
  return z[t];
}
API int ncclCommInitRank(void **c, int n, Id, int r) {
  *c = calloc(1, 4096);
  comm_rank[*c] = r;
  return 0;
}
API int ncclCommInitRankConfig(void **c, int n, Id, int r, void *) {
  *c = calloc(1, 4096);
  comm_rank[*c] = r;
  return 0;
}
API int ncclCommInitRankScalable(void **c, int n, int r, int, void *, void *) {
  *c = calloc(1, 4096);
  comm_rank[*c] = r;
  return 0;
}
API int ncclCommSplit(void *, int, int, void **c, void *) {
  *c = calloc(1, 4096);
  return 0;
}
API int ncclCommGetAsyncError(void *, int *e) {
  *e = 0;
  return 0;
}
API int ncclCommUserRank(void *c, int *r) {
  *r = comm_rank[c];
  return 0;
}
API int ncclCommCount(void *, int *n) {
  *n = ndev();
  return 0;
}
Z(ncclCommAbort)
Z(ncclCommDestroy) Z(ncclCommFinalize) Z(ncclGroupStart) Z(ncclGroupEnd) Z(ncclCommRegister)
    Z(ncclCommDeregister) Z(ncclCommRevoke) API
    int ncclAllReduce(const void *s, void *r, size_t n, int t, int op, void *c, cudaStream_t st) {
  work(S(st), "ncclAllReduce");
  return 0;
}
API int ncclBroadcast(const void *s, void *r, size_t n, int t, int root, void *c, cudaStream_t st) {
  work(S(st), "ncclBroadcast");
  return 0;
}
API int ncclAllGather(const void *s, void *r, size_t n, int t, void *c, cudaStream_t st) {
  work(S(st), "ncclAllGather");
  if (!S(st)->cap)
    for (int i = 0; i < ndev(); i++)
      memmove((char *)r + i * n * nsz(t), s, n * nsz(t));
  return 0;
}
API int ncclReduceScatter(const void *s, void *r, size_t n, int t, int op, void *c, cudaStream_t st) {
  work(S(st), "ncclReduceScatter");
  return 0;
}
