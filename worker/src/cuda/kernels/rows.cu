// What is done to each row by itself: a block takes a row.

// out = x / sqrt(mean(x^2) + eps) * weight, for rows of `width`, which lie `stride` apart in x and next to each other in out.
template <typename T>
__device__ void rms_norm(const T *x, const T *weight, T *out, long long stride, int width, float eps) {
    const T *from = x + blockIdx.x * stride;
    T *to = out + (long long)blockIdx.x * width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) squares += widen(from[i]) * widen(from[i]);
    float factor = 1.0f / sqrtf(over_block<Sum>(squares) / width + eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = narrow<T>(widen(from[i]) * factor * widen(weight[i]));
}

// out = silu(gate) * up with silu(x) = x / (1 + e^-x), for rows of gate | up, `stride` apart, of `width` each.
template <typename T> __device__ void silu_mul(const T *gate_up, T *out, long long stride, int width) {
    const T *gate = gate_up + blockIdx.x * stride, *up = gate + width;
    T *to = out + (long long)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float x = widen(gate[i]);
        to[i] = narrow<T>(x / (1.0f + expf(-x)) * widen(up[i]));
    }
}

// Copies rows of heads, `stride` apart, into (heads, capacity, head_dim) from row `position` on, so that a head's rows lie
// next to each other.
template <typename T>
__device__ void append(const T *x, T *cache, long long stride, long long capacity, long long position, int heads, int head_dim) {
    const T *from = x + blockIdx.x * stride;
    T *to = cache + (position + blockIdx.x) * head_dim;
    for (int i = threadIdx.x; i < heads * head_dim; i += blockDim.x) {
        to[i / head_dim * capacity * head_dim + i % head_dim] = from[i];
    }
}

#define KERNEL(T, NAME)                                                                                               \
    extern "C" __global__ void rms_norm_##NAME(const T *x, const T *weight, T *out, long long stride, int width,     \
                                               float eps) {                                                          \
        rms_norm(x, weight, out, stride, width, eps);                                                                \
    }                                                                                                                \
    extern "C" __global__ void silu_mul_##NAME(const T *gate_up, T *out, long long stride, int width) {              \
        silu_mul(gate_up, out, stride, width);                                                                       \
    }                                                                                                                \
    extern "C" __global__ void append_##NAME(const T *x, T *cache, long long stride, long long capacity,             \
                                             long long position, int heads, int head_dim) {                          \
        append(x, cache, stride, capacity, position, heads, head_dim);                                               \
    }
FOR_EACH_FORMAT(KERNEL)
#undef KERNEL
