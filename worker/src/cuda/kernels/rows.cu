// What is done to each row by itself: a block takes a row, N numbers at a time.

// out = x / sqrt(mean(x^2) + eps) * weight, for rows of `width`, which lie `stride` apart in x and next to each other in out.
template <int N, typename T>
__device__ void rms_norm(const T *x, const T *weight, T *out, long long stride, int width, float eps) {
    typedef Vector<T, N> Numbers;
    const Numbers *from = (const Numbers *)(x + blockIdx.x * stride), *weights = (const Numbers *)weight;
    Numbers *to = (Numbers *)(out + (long long)blockIdx.x * width);
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width / N; i += blockDim.x) {
        Numbers numbers = from[i];
        for (int j = 0; j < N; ++j) squares += widen(numbers.x[j]) * widen(numbers.x[j]);
    }
    float factor = 1.0f / sqrtf(over_block<Sum>(squares) / width + eps);
    for (int i = threadIdx.x; i < width / N; i += blockDim.x) {
        Numbers numbers = from[i], by = weights[i];
        for (int j = 0; j < N; ++j) numbers.x[j] = narrow<T>(widen(numbers.x[j]) * factor * widen(by.x[j]));
        to[i] = numbers;
    }
}

// out = silu(gate) * up with silu(x) = x / (1 + e^-x), for rows of gate | up, `stride` apart, of `width` each.
template <int N, typename T> __device__ void silu_mul(const T *gate_up, T *out, long long stride, int width) {
    typedef Vector<T, N> Numbers;
    const T *row = gate_up + blockIdx.x * stride;
    const Numbers *gates = (const Numbers *)row, *ups = (const Numbers *)(row + width);
    Numbers *to = (Numbers *)(out + (long long)blockIdx.x * width);
    for (int i = threadIdx.x; i < width / N; i += blockDim.x) {
        Numbers gate = gates[i], up = ups[i];
        for (int j = 0; j < N; ++j) {
            float x = widen(gate.x[j]);
            gate.x[j] = narrow<T>(x / (1.0f + expf(-x)) * widen(up.x[j]));
        }
        to[i] = gate;
    }
}

// to += x, for rows of `width` next to each other.
template <int N, typename T> __device__ void add(T *to, const T *x, int width) {
    typedef Vector<T, N> Numbers;
    const Numbers *from = (const Numbers *)(x + (long long)blockIdx.x * width);
    Numbers *sums = (Numbers *)(to + (long long)blockIdx.x * width);
    for (int i = threadIdx.x; i < width / N; i += blockDim.x) {
        Numbers sum = sums[i], numbers = from[i];
        for (int j = 0; j < N; ++j) sum.x[j] = narrow<T>(widen(sum.x[j]) + widen(numbers.x[j]));
        sums[i] = sum;
    }
}

// Copies rows of heads, `stride` apart, into (heads, capacity, head_dim) from row `position` on, so that a head's rows lie
// next to each other.
template <int N, typename T>
__device__ void append(const T *x, T *cache, long long stride, long long capacity, long long position, int heads, int head_dim) {
    typedef Vector<T, N> Numbers;
    const Numbers *from = (const Numbers *)(x + blockIdx.x * stride);
    Numbers *to = (Numbers *)(cache + (position + blockIdx.x) * head_dim);
    int width = head_dim / N;
    for (int i = threadIdx.x; i < heads * width; i += blockDim.x) to[i / width * capacity * width + i % width] = from[i];
}

// Each in the widest vectors where all rows begin with one, and else number by number.
#define KERNEL(T, NAME)                                                                                                      \
    extern "C" __global__ void rms_norm_##NAME(const T *x, const T *weight, T *out, long long stride, int width,            \
                                               float eps) {                                                                 \
        if (begins_whole(x, stride) && begins_whole(weight, width) && begins_whole(out, width))                             \
            rms_norm<WIDEST<T>>(x, weight, out, stride, width, eps);                                                        \
        else                                                                                                                \
            rms_norm<1>(x, weight, out, stride, width, eps);                                                                \
    }                                                                                                                       \
    extern "C" __global__ void silu_mul_##NAME(const T *gate_up, T *out, long long stride, int width) {                     \
        if (begins_whole(gate_up, stride) && begins_whole(out, width))                                                      \
            silu_mul<WIDEST<T>>(gate_up, out, stride, width);                                                               \
        else                                                                                                                \
            silu_mul<1>(gate_up, out, stride, width);                                                                       \
    }                                                                                                                       \
    extern "C" __global__ void add_##NAME(T *to, const T *x, int width) {                                                   \
        if (begins_whole(to, width) && begins_whole(x, width))                                                              \
            add<WIDEST<T>>(to, x, width);                                                                                   \
        else                                                                                                                \
            add<1>(to, x, width);                                                                                           \
    }                                                                                                                       \
    extern "C" __global__ void append_##NAME(const T *x, T *cache, long long stride, long long capacity,                    \
                                             long long position, int heads, int head_dim) {                                 \
        if (begins_whole(x, stride) && begins_whole(cache, head_dim))                                                       \
            append<WIDEST<T>>(x, cache, stride, capacity, position, heads, head_dim);                                       \
        else                                                                                                                \
            append<1>(x, cache, stride, capacity, position, heads, head_dim);                                               \
    }
FOR_EACH_FORMAT(KERNEL)
#undef KERNEL
