// Causal attention for Hopper GPUs (sm_90a), in bf16 or f16, never n x n: one block for 128 queries of a head.
//
// One warp group brings keys and values by the tensor memory accelerator, two groups of 64 queries each multiply on the tensor
// cores (wgmma). While the products of one block of keys run, the softmax of the next is computed; and the two groups take
// turns, so that one's softmax hides behind the other's products.
//
// HEAD_DIM (64, 96 or 128) and NAME, TYPE (the format) are defined by who compiles this. A head of 96 lies in shared memory like
// one of 128.

typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int ROWS = 128, KEYS = 128, STAGES = 2;
constexpr int GROUP = 128, GROUPS = 2, THREADS = GROUP * (GROUPS + 1);
// A tile of 128 rows lies in panels of 64 numbers, 128 bytes, in the accelerator's 128-byte swizzle.
constexpr int PANELS = (HEAD_DIM + 63) / 64, PANEL = ROWS * 128, TILE = PANELS * PANEL;
constexpr int SCORES = KEYS / 2, SUMS = HEAD_DIM / 2;

struct alignas(64) TensorMap {
    u64 words[16];
};

struct alignas(8) Barriers {
    u64 queries, keys[STAGES], values[STAGES], keys_free[STAGES], values_free[STAGES];
};

__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void barrier_init(u64 *barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_expect(u64 *barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u64 *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

__device__ __forceinline__ void barrier_wait(u64 *barrier, u32 parity) {
    u32 done;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(shared_address(barrier)), "r"(parity)
                     : "memory");
    } while (!done);
}

// Brings 128 rows of a head from `row` on; what lies outside of the tensor is 0.
__device__ __forceinline__ void load_tile(unsigned char *to, const TensorMap *map, u64 *barrier, int row, int head) {
    barrier_expect(barrier, TILE);
#pragma unroll
    for (int panel = 0; panel < PANELS; ++panel) {
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
                         "r"(shared_address(to + panel * PANEL)), "l"((u64)map), "r"(shared_address(barrier)), "r"(panel * 64), "r"(row), "r"(head)
                     : "memory");
    }
}

// What wgmma reads of a tile. Rows are one panel's 128 bytes, 8 of them an atom of 1 KiB; `panels` lie that far apart.
__device__ __forceinline__ u64 descriptor(u32 address, u32 panels) {
    return (u64)((address & 0x3ffff) >> 4) | (u64)(panels >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

#define TO_32                                                                                                              \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, " \
    "%25, %26, %27, %28, %29, %30, %31"
#define TO_48 TO_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define TO_64 TO_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FOUR(x, i) "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3])
#define SIXTEEN(x, i) FOUR(x, i), FOUR(x, i + 4), FOUR(x, i + 8), FOUR(x, i + 12)

#if HEAD_DIM == 64
#define VALUES "n64k16.f32." TYPE "." TYPE " {" TO_32 "}, {%32, %33, %34, %35}, %36"
#define SUM_OPERANDS(x) SIXTEEN(x, 0), SIXTEEN(x, 16)
#elif HEAD_DIM == 96
#define VALUES "n96k16.f32." TYPE "." TYPE " {" TO_48 "}, {%48, %49, %50, %51}, %52"
#define SUM_OPERANDS(x) SIXTEEN(x, 0), SIXTEEN(x, 16), SIXTEEN(x, 32)
#else
#define VALUES "n128k16.f32." TYPE "." TYPE " {" TO_64 "}, {%64, %65, %66, %67}, %68"
#define SUM_OPERANDS(x) SIXTEEN(x, 0), SIXTEEN(x, 16), SIXTEEN(x, 32), SIXTEEN(x, 48)
#endif

// scores (64 x 128) = or += 16 numbers of queries times those of keys.
__device__ __forceinline__ void multiply_keys(float (&scores)[SCORES], u64 queries, u64 keys, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {" TO_64
                 "}, %64, %65, p, 1, 1, 0, 0;\n}"
                 : SIXTEEN(scores, 0), SIXTEEN(scores, 16), SIXTEEN(scores, 32), SIXTEEN(scores, 48)
                 : "l"(queries), "l"(keys), "r"(add));
}

// sums (64 x HEAD_DIM) += the weights of 16 keys times their values.
__device__ __forceinline__ void multiply_values(float (&sums)[SUMS], const u32 *weights, u64 values) {
    asm volatile("wgmma.mma_async.sync.aligned.m64" VALUES ", 1, 1, 1, 1;"
                 : SUM_OPERANDS(sums)
                 : "r"(weights[0]), "r"(weights[1]), "r"(weights[2]), "r"(weights[3]), "l"(values));
}

// Registers that products write in the background: nothing may be moved past this.
template <int N> __device__ __forceinline__ void settle(float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(x[i])::"memory");
}

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most N groups of products are under way.
template <int N> __device__ __forceinline__ void wait_products() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xff800000); }

// A distance as far as a block of keys can tell it.
__device__ __forceinline__ int within(long long distance) { return (int)(distance < -4 * KEYS ? -4 * KEYS : distance > 4 * KEYS ? 4 * KEYS : distance); }

__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ u32 narrow_two(float low, float high) {
    u32 both;
    asm("cvt.rn." TYPE "x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ float over_four(float x, bool max) {
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
        float other = __shfl_xor_sync(0xffffffff, x, distance);
        x = max ? fmaxf(x, other) : x + other;
    }
    return x;
}

// The groups take turns: barrier 1 + group opens when the other has handed over.
__device__ __forceinline__ void take_turn(int group) { asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory"); }

__device__ __forceinline__ void hand_over(int group) { asm volatile("bar.arrive %0, 256;" ::"r"(2 - group) : "memory"); }

// A group's 64 queries. A thread has two of their rows, `row` and `row + 8`, a quarter of each: columns 8 j + 2 (lane % 4)
// and the next.
struct Queries {
    float scores[SCORES], sums[SUMS];
    u32 weights[SCORES / 2];
    float largest[2], total[2];
    long long position;
    int lane;

    __device__ __forceinline__ void multiply(u64 queries, u64 keys) {
        settle(scores);
        begin_products();
#pragma unroll
        for (int k = 0; k < HEAD_DIM / 16; ++k) {
            // 16 numbers are 32 bytes of a panel's rows.
            u64 step = (k / 4 * PANEL + k % 4 * 32) >> 4;
            multiply_keys(scores, queries + step, keys + step, k > 0);
        }
        end_products();
    }

    __device__ __forceinline__ void add(u64 values) {
        settle(sums);
        begin_products();
        // 16 keys are two atoms.
#pragma unroll
        for (int k = 0; k < KEYS / 16; ++k) multiply_values(sums, weights + 4 * k, values + (k * 2048 >> 4));
        end_products();
    }

    // Hides keys after a query's position and those a window before it.
    __device__ __forceinline__ void hide(long long key, long long window) {
        int last = within(position - key) - lane % 4 * 2, first = within(position - window - key) - lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < SCORES; ++i) {
            int column = i / 4 * 8 + i % 2 - i / 2 % 2 * 8;
            if (column > last || column <= first) scores[i] = minus_infinity();
        }
    }

    // From scores to weights relative to the new largest; returns by what the sums so far must be multiplied.
    __device__ __forceinline__ void soften(float scale, float (&correction)[2]) {
        float now[2] = {largest[0], largest[1]}, base[2], sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int i = 0; i < SCORES; ++i) now[i / 2 % 2] = fmaxf(now[i / 2 % 2], scores[i]);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            now[r] = over_four(now[r], true);
            // Where no key is seen yet, any base will do.
            base[r] = now[r] == minus_infinity() ? 0.0f : now[r] * scale;
            correction[r] = power_of_two(largest[r] * scale - base[r]);
            largest[r] = now[r];
        }
#pragma unroll
        for (int i = 0; i < SCORES; ++i) {
            scores[i] = power_of_two(fmaf(scores[i], scale, -base[i / 2 % 2]));
            sum[i / 2 % 2] += scores[i];
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) total[r] = total[r] * correction[r] + sum[r];
    }

    __device__ __forceinline__ void correct(const float (&correction)[2]) {
        // The largest score rarely changes after the first blocks.
        if (!__any_sync(0xffffffff, correction[0] != 1.0f || correction[1] != 1.0f)) return;
#pragma unroll
        for (int i = 0; i < SUMS; ++i) sums[i] *= correction[i / 2 % 2];
    }

    __device__ __forceinline__ void narrow_weights() {
#pragma unroll
        for (int i = 0; i < SCORES / 2; ++i) weights[i] = narrow_two(scores[2 * i], scores[2 * i + 1]);
    }
};

// queries: (chunk, heads, HEAD_DIM); keys, values: (kv heads, keys, HEAD_DIM), all as tensor maps of (number, row, head). out: (chunk,
// heads * HEAD_DIM). The last query stands at key `keys - 1`; one at position p sees the keys k with p - window < k <= p. `scale` has
// the factor log2(e). Blocks: tiles of queries times heads; those that read the same keys are next to each other.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    NAME(const __grid_constant__ TensorMap queries_map, const __grid_constant__ TensorMap keys_map,
         const __grid_constant__ TensorMap values_map, u32 *out, float scale, int chunk, int heads, int group, long long keys,
         long long window) {
    extern __shared__ unsigned char shared[];
    __shared__ Barriers barriers;
    unsigned char *base = shared + (1024 - (shared_address(shared) & 1023)) % 1024;
    unsigned char *queries_tile = base, *keys_tiles = base + TILE, *values_tiles = base + (1 + STAGES) * TILE;

    int tiles = (chunk + ROWS - 1) / ROWS, index = blockIdx.x % (tiles * group);
    int kv_head = blockIdx.x / (tiles * group), head = kv_head * group + index % group;
    // The longest first.
    int first_row = (tiles - 1 - index / group) * ROWS;
    long long first = keys - chunk + first_row, end = first + ROWS < keys ? first + ROWS : keys;
    long long begin = first + 1 > window ? first + 1 - window : 0;
    int last_block = (int)((end - 1) / KEYS), blocks = last_block - (int)(begin / KEYS) + 1;

    if (threadIdx.x == 0) {
        barrier_init(&barriers.queries, 1);
        for (int stage = 0; stage < STAGES; ++stage) {
            barrier_init(&barriers.keys[stage], 1);
            barrier_init(&barriers.values[stage], 1);
            barrier_init(&barriers.keys_free[stage], GROUPS * 4);
            barrier_init(&barriers.values_free[stage], GROUPS * 4);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();

    if (threadIdx.x >= GROUP * GROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == GROUP * GROUPS) {
            load_tile(queries_tile, &queries_map, &barriers.queries, first_row, head);
            // From the last keys to the first.
            for (int i = 0; i <= blocks; ++i) {
                int stage = i % STAGES;
                if (i < blocks) {
                    barrier_wait(&barriers.keys_free[stage], (i / STAGES + 1) % 2);
                    load_tile(keys_tiles + stage * TILE, &keys_map, &barriers.keys[stage], (last_block - i) * KEYS, kv_head);
                }
                if (i > 0) {
                    int before = (i - 1) % STAGES;
                    barrier_wait(&barriers.values_free[before], ((i - 1) / STAGES + 1) % 2);
                    load_tile(values_tiles + before * TILE, &values_map, &barriers.values[before], (last_block - i + 1) * KEYS, kv_head);
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        int lane = threadIdx.x % 32, warps_group = threadIdx.x / GROUP, row = threadIdx.x / 32 * 16 + lane / 4;
        Queries q;
        q.lane = lane;
        q.position = first + row;
        q.largest[0] = q.largest[1] = minus_infinity();
        q.total[0] = q.total[1] = 0.0f;
#pragma unroll
        for (int i = 0; i < SUMS; ++i) q.sums[i] = 0.0f;
        u64 queries = descriptor(shared_address(queries_tile) + warps_group * 64 * 128, PANEL);
        u64 keys_at = descriptor(shared_address(keys_tiles), PANEL), values_at = descriptor(shared_address(values_tiles), PANEL);
        // Blocks with keys before this have no query that sees beyond its position, and from that one on none out of a window.
        long long group_first = first + warps_group * 64, group_last = group_first + 63;
        float correction[2];

        if (warps_group == 1) hand_over(1);
        barrier_wait(&barriers.queries, 0);
        for (int i = 0; i < blocks; ++i) {
            int stage = i % STAGES, before = (i + STAGES - 1) % STAGES;
            long long key = (long long)(last_block - i) * KEYS;
            barrier_wait(&barriers.keys[stage], i / STAGES % 2);
            take_turn(warps_group);
            q.multiply(queries, keys_at + (stage * TILE >> 4));
            if (i > 0) {
                barrier_wait(&barriers.values[before], (i - 1) / STAGES % 2);
                q.add(values_at + (before * TILE >> 4));
                hand_over(warps_group);
                wait_products<1>();
            } else {
                hand_over(warps_group);
                wait_products<0>();
            }
            settle(q.scores);
            if (lane == 0) barrier_arrive(&barriers.keys_free[stage]);
            if (key + KEYS - 1 > group_first || key <= group_last - window) q.hide(key, window);
            q.soften(scale, correction);
            if (i > 0) {
                wait_products<0>();
                settle(q.sums);
                if (lane == 0) barrier_arrive(&barriers.values_free[before]);
                q.correct(correction);
            }
            q.narrow_weights();
        }
        int stage = (blocks - 1) % STAGES;
        barrier_wait(&barriers.values[stage], (blocks - 1) / STAGES % 2);
        q.add(values_at + (stage * TILE >> 4));
        wait_products<0>();
        settle(q.sums);
        // The other's last hand-over stays open otherwise.
        if (warps_group == 0) take_turn(0);

#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float inverse = 1.0f / over_four(q.total[r], false);
            int at = first_row + row + r * 8;
            if (at >= chunk) continue;
            u32 *to = out + ((long long)at * heads + head) * (HEAD_DIM / 2) + lane % 4;
#pragma unroll
            for (int j = 0; j < HEAD_DIM / 8; ++j) to[j * 4] = narrow_two(q.sums[4 * j + 2 * r] * inverse, q.sums[4 * j + 2 * r + 1] * inverse);
        }
    }
}
