// Rotary embedding of heads, with the normalisation per head that some models put before it.
//
// Pair i of a head is its dimensions i and i + pairs; dimensions from 2 * pairs on stay:
//
//     out_i         = x_i cos_i         - x_{i+pairs} sin_i
//     out_{i+pairs} = x_{i+pairs} cos_i + x_i         sin_i
//
// A block takes a row, a warp one head of it after another. Angles are f32 whatever the format: half-precision cosines are
// wrong beyond a few thousand positions.

template <typename T> struct Head {
    const T *x;
    const T *weight;
    float factor;

    __device__ float operator[](int i) const {
        return weight ? widen(x[i]) * factor * widen(weight[i]) : widen(x[i]);
    }
};

// x: rows of heads * head_dim, `stride` apart. cos, sin: (rows, pairs). weight: (head_dim), or null. out: (rows, heads *
// head_dim).
template <typename T>
__device__ void rotate(const T *x, const float *cos, const float *sin, const T *weight, T *out, long long stride,
                       int heads, int head_dim, int pairs, float eps) {
    long long row = blockIdx.x;
    int lane = threadIdx.x % WARP;
    const float *cosines = cos + row * pairs, *sines = sin + row * pairs;
    for (int index = threadIdx.x / WARP; index < heads; index += blockDim.x / WARP) {
        Head<T> head = {x + row * stride + index * head_dim, weight, 1.0f};
        T *to = out + (row * heads + index) * head_dim;
        if (weight) {
            float squares = 0.0f;
            for (int i = lane; i < head_dim; i += WARP) squares += widen(head.x[i]) * widen(head.x[i]);
            head.factor = 1.0f / sqrtf(over_warp<Sum>(squares) / head_dim + eps);
        }
        for (int i = lane; i < pairs; i += WARP) {
            float low = head[i], high = head[i + pairs];
            to[i] = narrow<T>(low * cosines[i] - high * sines[i]);
            to[i + pairs] = narrow<T>(high * cosines[i] + low * sines[i]);
        }
        for (int i = 2 * pairs + lane; i < head_dim; i += WARP) to[i] = narrow<T>(head[i]);
    }
}

#define KERNEL(T, NAME)                                                                                               \
    extern "C" __global__ void rotate_##NAME(const T *x, const float *cos, const float *sin, const T *weight, T *out, \
                                             long long stride, int heads, int head_dim, int pairs, float eps) {       \
        rotate(x, cos, sin, weight, out, stride, heads, head_dim, pairs, eps);                                        \
    }
FOR_EACH_FORMAT(KERNEL)
#undef KERNEL
