// Every kernel, as one program.

#include "half.cuh"
#include "formats.cuh"
#include "rotate.cu"
#include "rows.cu"
#include "cross_entropy.cu"
#include "softmax.cu"
