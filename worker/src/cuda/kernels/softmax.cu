// The softmax of streaming attention: scores of a block of keys become weights, and what was summed up before is scaled to
// the new maximum. Products are cuBLAS's, before and after.
//
// A row is a query of a head: (heads, chunk), the query's row in the chunk running fastest. The last query of the chunk stands
// at the last key, and a query at position p sees the keys k with p - window < k <= p.

// scores: (rows, count) of the keys from `key` on. weights: the same shape. maxima, totals: (rows). sums: (rows, head_dim). A
// block takes a row. Weights are 2^(scale * score - maximum): `scale` holds the factor log2(e). For the first keys (`fresh`)
// maxima, totals and sums are started, whatever is in the buffers before.
template <typename T>
__device__ void softmax_block(const float *scores, T *weights, float *maxima, float *totals, float *sums, float scale,
                              int chunk, int count, int head_dim, long long key, long long first, long long window, int fresh) {
    long long row = blockIdx.x, position = first + row % chunk;
    const float *from = scores + row * count;
    T *to = weights + row * count;
    long long begin = position + 1 - window - key, end = position + 1 - key;
    float largest = minus_infinity();
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        if (i >= begin && i < end) largest = fmaxf(largest, from[i] * scale);
    }
    float old = fresh ? minus_infinity() : maxima[row], total = fresh ? 0.0f : totals[row];
    float now = fmaxf(old, over_block<Max>(largest));
    // Where no key is seen yet, any base will do.
    float base = now == minus_infinity() ? 0.0f : now, correction = exp2f(old - base);
    float partial = 0.0f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        float weight = i >= begin && i < end ? exp2f(from[i] * scale - base) : 0.0f;
        to[i] = narrow<T>(weight);
        partial += weight;
    }
    float *sum = sums + row * head_dim;
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) sum[i] = fresh ? 0.0f : sum[i] * correction;
    partial = over_block<Sum>(partial);
    if (threadIdx.x == 0) {
        maxima[row] = now;
        totals[row] = total * correction + partial;
    }
}

// out: (chunk, heads * head_dim), sums over totals; a block takes a row.
template <typename T>
__device__ void softmax_finish(const float *sums, const float *totals, T *out, int heads, int chunk, int head_dim) {
    long long row = blockIdx.x, head = row / chunk;
    T *to = out + ((row % chunk) * heads + head) * head_dim;
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) to[i] = narrow<T>(sums[row * head_dim + i] / totals[row]);
}

#define KERNEL(T, NAME)                                                                                               \
    extern "C" __global__ void softmax_block_##NAME(const float *scores, T *weights, float *maxima, float *totals,   \
                                                    float *sums, float scale, int chunk, int count, int head_dim,    \
                                                    long long key, long long first, long long window, int fresh) { \
        softmax_block(scores, weights, maxima, totals, sums, scale, chunk, count, head_dim, key, first, window, fresh); \
    }                                                                                                                \
    extern "C" __global__ void softmax_finish_##NAME(const float *sums, const float *totals, T *out, int heads,      \
                                                     int chunk, int head_dim) {                                      \
        softmax_finish(sums, totals, out, heads, chunk, head_dim);                                                   \
    }
FOR_EACH_FORMAT(KERNEL)
#undef KERNEL
