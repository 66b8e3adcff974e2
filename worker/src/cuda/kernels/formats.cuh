// Number formats and sums over a block. Every kernel reads its operands into f32 and rounds once, when it writes.
//
// The text needs no header, so NVRTC can compile it on a machine that has a driver and no tool kit.

struct bf16 {
    unsigned short bits;
};
struct f16 {
    unsigned short bits;
};

__device__ inline float widen(float x) { return x; }

__device__ inline float widen(bf16 x) { return __uint_as_float((unsigned int)x.bits << 16); }

__device__ inline float widen(f16 x) { return f32_of_f16(x.bits); }

template <typename T> __device__ T narrow(float x);

template <> __device__ inline float narrow<float>(float x) { return x; }

// To the nearest, halves to even; what is no number stays none. In integers, because the instruction needs sm_80.
template <> __device__ inline bf16 narrow<bf16>(float x) {
    unsigned int bits = __float_as_uint(x);
    if (x != x) return {(unsigned short)(bits >> 16 | 0x40)};
    return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <> __device__ inline f16 narrow<f16>(float x) { return {f16_of_f32(x)}; }

// Numbers that are read or written by one instruction.
template <typename T, int N> struct alignas(N * sizeof(T)) Vector {
    T x[N];
};

// As many as 16 bytes hold, the most there are.
template <typename T> constexpr int WIDEST = 16 / sizeof(T);

// Whether rows that begin at p, `stride` apart, all begin with a widest vector.
template <typename T> __device__ inline bool begins_whole(const T *p, long long stride) {
    return (unsigned long long)p % 16 == 0 && stride % WIDEST<T> == 0;
}

constexpr int WARP = 32;
constexpr int MAX_WARPS = 32;
constexpr unsigned int ALL_LANES = 0xffffffff;
constexpr float LEAST = -3.402823466e38f;

__device__ inline float minus_infinity() { return __uint_as_float(0xff800000); }

struct Sum {
    template <typename N> __device__ static N join(N a, N b) { return a + b; }
};

// fmaxf leaves out what is no number.
struct Max {
    __device__ static float join(float a, float b) { return fmaxf(a, b); }
};

struct Min {
    __device__ static unsigned int join(unsigned int a, unsigned int b) { return b < a ? b : a; }
};

// The same value in every lane of the warp.
template <typename Join, typename N> __device__ N over_warp(N x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        x = Join::join(x, __shfl_xor_sync(ALL_LANES, x, distance));
    }
    return x;
}

// The same value in every thread of the block, whose size must be a multiple of a warp. The order of additions is fixed.
template <typename Join, typename N> __device__ N over_block(N x) {
    __shared__ N of_warps[MAX_WARPS];
    int warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = over_warp<Join>(x);
    // Of the call before, somebody may still be reading.
    __syncthreads();
    if (threadIdx.x % WARP == 0) of_warps[warp] = x;
    __syncthreads();
    N all = of_warps[0];
    for (int other = 1; other < warps; ++other) all = Join::join(all, of_warps[other]);
    return all;
}

// One kernel for each number format, by the name of the template and of the format.
#define FOR_EACH_FORMAT(KERNEL) KERNEL(float, f32) KERNEL(bf16, bf16) KERNEL(f16, f16)
