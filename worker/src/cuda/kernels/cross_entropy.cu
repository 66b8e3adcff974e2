// Negative log-likelihood of targets under logits that arrive a part of the vocabulary at a time:
//
//     nll_r = log(sum_v exp(logit_{r,v})) - logit_{r, target_r}
//
// What is known of a row so far stays on the device: its maximum, the sum of exp(logit - maximum), the target's logit, and
// the first token that has the maximum.

// Takes in the logits of `width` tokens of the vocabulary, `first` and those after it; a block takes a row. The part that begins
// at 0 comes first, whatever is in the buffers before. N numbers are read at a time.
template <int N, typename T>
__device__ void cross_entropy_add(const T *logits, const unsigned int *targets, float *maxima, double *sums, float *found,
                                  unsigned int *likeliest, unsigned int first, unsigned int width) {
    long long row = blockIdx.x;
    typedef Vector<T, N> Numbers;
    const T *from = logits + row * width;
    float largest = minus_infinity();
    for (unsigned int i = threadIdx.x; i < width / N; i += blockDim.x) {
        Numbers numbers = ((const Numbers *)from)[i];
        for (int j = 0; j < N; ++j) largest = fmaxf(largest, widen(numbers.x[j]));
    }
    float max = over_block<Max>(largest);
    // Where all is minus infinity the sum is 0, not undefined.
    float base = fmaxf(max, LEAST);
    float partial = 0.0f;
    unsigned int nearest = 0xffffffff;
    for (unsigned int i = threadIdx.x; i < width / N; i += blockDim.x) {
        Numbers numbers = ((const Numbers *)from)[i];
        for (int j = 0; j < N; ++j) {
            float logit = widen(numbers.x[j]);
            partial += expf(logit - base);
            if (logit == max && i * N + j < nearest) nearest = i * N + j;
        }
    }
    double sum = over_block<Sum>((double)partial);
    nearest = over_block<Min>(nearest);
    if (threadIdx.x != 0) return;

    float old = first == 0 ? minus_infinity() : maxima[row], now = fmaxf(old, max);
    // A sum that is no number stays none.
    double before = first == 0 ? 0.0 : sums[row], kept = old == minus_infinity() ? before : before * exp((double)(old - now));
    double added = max == minus_infinity() ? sum : sum * exp((double)(max - now));
    sums[row] = kept + added;
    maxima[row] = now;
    if (first == 0) likeliest[row] = 0;
    if (max > old) likeliest[row] = first + nearest;
    bool here = targets[row] >= first && targets[row] - first < width;
    if (here) found[row] = widen(from[targets[row] - first]);
    // A target that is in no part has no loss.
    if (!here && first == 0) found[row] = 0.0f / 0.0f;
}

// Adds up `rows` rows into out[0], in nats, and counts into out[1] those whose target no other token exceeds; a row with a
// number that is none counts as wrong. One block.
extern "C" __global__ void cross_entropy_finish(const float *maxima, const double *sums, const float *found, double *out, int rows) {
    double nll = 0.0, right = 0.0;
    for (int row = threadIdx.x; row < rows; row += blockDim.x) {
        nll += (double)maxima[row] + log(sums[row]) - (double)found[row];
        bool finite = sums[row] > 0.0 && sums[row] - sums[row] == 0.0;
        right += finite && found[row] == maxima[row] ? 1.0 : 0.0;
    }
    nll = over_block<Sum>(nll);
    right = over_block<Sum>(right);
    if (threadIdx.x == 0) {
        out[0] = nll;
        out[1] = right;
    }
}

#define KERNEL(T, NAME)                                                                                               \
    extern "C" __global__ void cross_entropy_add_##NAME(const T *logits, const unsigned int *targets, float *maxima, \
                                                        double *sums, float *found, unsigned int *likeliest,         \
                                                        unsigned int first, unsigned int width) {                             \
        if (begins_whole(logits, width))                                                                             \
            cross_entropy_add<WIDEST<T>>(logits, targets, maxima, sums, found, likeliest, first, width);             \
        else                                                                                                         \
            cross_entropy_add<1>(logits, targets, maxima, sums, found, likeliest, first, width);                     \
    }
FOR_EACH_FORMAT(KERNEL)
#undef KERNEL
