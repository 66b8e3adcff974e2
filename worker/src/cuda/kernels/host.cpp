// Runs the kernels' own text on a processor, so that what they compute can be tested where no GPU is.
//
// A thread of a block is a fiber; they take turns at barriers and exchanges between lanes. A launch is run twice, with the
// threads in the order of their numbers and the other way round: where the results differ, a barrier is missing.
//
// Standard input: the kernel's name, blocks, threads, number of arguments, each as a line; then the arguments: 'i' and a 64-bit
// integer, 'f' and a double, 'n' (a null pointer), or 'b', a 64-bit length and so many bytes. Standard output: the buffers
// ('b') after the launch, in order. Exit status 1 and a message where the launch went wrong.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <ucontext.h>
#include <utility>
#include <vector>

struct Index {
    unsigned int x;
};
static Index threadIdx, blockIdx, blockDim;

[[noreturn]] static void fail(const std::string &message) {
    fprintf(stderr, "%s\n", message.c_str());
    exit(1);
}

// === the threads of a block ===

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(64 * 1024);
    bool done = false;
};
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static const std::function<void()> *body;
static bool progress;

struct Barrier {
    unsigned int arrived = 0, generation = 0;

    void wait(unsigned int count) {
        unsigned int mine = generation;
        progress = true;
        if (++arrived == count) {
            arrived = 0;
            ++generation;
        }
        while (generation == mine) swapcontext(&fibers[threadIdx.x].context, &scheduler);
    }
};
static Barrier of_block, of_warps[32];
static char lanes[1024][8];

static void __syncthreads() { of_block.wait(blockDim.x); }

template <typename N> static N __shfl_xor_sync(unsigned int, N x, int distance) {
    unsigned int thread = threadIdx.x;
    memcpy(lanes[thread], &x, sizeof x);
    of_warps[thread / 32].wait(32);
    memcpy(&x, lanes[thread ^ distance], sizeof x);
    of_warps[thread / 32].wait(32);
    return x;
}

static void run_fiber() {
    (*body)();
    fibers[threadIdx.x].done = progress = true;
}

static void run_block(unsigned int threads, bool backwards) {
    fibers.resize(threads);
    for (auto &fiber : fibers) {
        fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (progress = true; progress;) {
        progress = false;
        for (unsigned int turn = 0; turn < threads; ++turn) {
            unsigned int thread = backwards ? threads - 1 - turn : turn;
            threadIdx.x = thread;
            if (!fibers[thread].done) swapcontext(&scheduler, &fibers[thread].context);
        }
    }
    for (auto &fiber : fibers) {
        if (!fiber.done) fail("some threads of a block wait at a barrier that others never reach");
    }
}

// === the language of the kernels ===

#define __global__
#define __device__
#define __shared__ static
static unsigned int __float_as_uint(float x) {
    unsigned int bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static float __uint_as_float(unsigned int bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static float f32_of_f16(unsigned short bits) {
    _Float16 x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static unsigned short f16_of_f32(float x) {
    _Float16 half = x;
    unsigned short bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
}

#include "all.cu"

// === launches ===

struct Argument {
    char kind;
    long long integer;
    double real;
    std::vector<char> buffer;

    template <typename T> T as() {
        if constexpr (std::is_pointer_v<T>) {
            if (kind != 'b' && kind != 'n') fail("a pointer is needed");
            return kind == 'n' ? nullptr : reinterpret_cast<T>(buffer.data());
        } else {
            if (kind != (std::is_floating_point_v<T> ? 'f' : 'i')) fail("a number of another kind is needed");
            return kind == 'f' ? static_cast<T>(real) : static_cast<T>(integer);
        }
    }
};
using Arguments = std::vector<Argument>;
using Kernel = std::function<std::function<void()>(Arguments &)>;

template <typename... T, size_t... I>
static std::function<void()> with_arguments(void (*kernel)(T...), Arguments &arguments, std::index_sequence<I...>) {
    if (arguments.size() != sizeof...(T)) fail("the kernel has another number of parameters");
    return [=, &arguments] { kernel(arguments[I].template as<T>()...); };
}

template <typename... T> static Kernel kernel(void (*kernel)(T...)) {
    return [=](Arguments &arguments) { return with_arguments(kernel, arguments, std::index_sequence_for<T...>()); };
}

#define KERNELS(T, NAME)                                         \
    {"rotate_" #NAME, kernel(rotate_##NAME)},                    \
    {"rms_norm_" #NAME, kernel(rms_norm_##NAME)},                \
    {"silu_mul_" #NAME, kernel(silu_mul_##NAME)},                \
    {"add_" #NAME, kernel(add_##NAME)},                          \
    {"append_" #NAME, kernel(append_##NAME)},                    \
    {"cross_entropy_add_" #NAME, kernel(cross_entropy_add_##NAME)}, \
    {"softmax_block_" #NAME, kernel(softmax_block_##NAME)},      \
    {"softmax_finish_" #NAME, kernel(softmax_finish_##NAME)},
static const std::map<std::string, Kernel> kernels = {
    FOR_EACH_FORMAT(KERNELS){"cross_entropy_finish", kernel(cross_entropy_finish)},
};

static void launch(const Kernel &kernel, unsigned int blocks, unsigned int threads, Arguments &arguments, bool backwards) {
    auto call = kernel(arguments);
    body = &call;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) run_block(threads, backwards);
}

static void read(void *to, size_t bytes) {
    if (bytes && fread(to, bytes, 1, stdin) != 1) fail("standard input ends early");
}

int main() {
    char name[64];
    unsigned int blocks, threads, count;
    if (scanf("%63s %u %u %u", name, &blocks, &threads, &count) != 4 || getchar() != '\n') fail("the request is not understood");
    if (!kernels.count(name)) fail(std::string("no kernel is called ") + name);
    if (threads % 32 || threads > 1024) fail("a block has whole warps, 32 at most");
    Arguments arguments(count);
    for (auto &argument : arguments) {
        read(&argument.kind, 1);
        if (argument.kind == 'i') read(&argument.integer, 8);
        if (argument.kind == 'f') read(&argument.real, 8);
        if (argument.kind == 'b') {
            unsigned long long bytes;
            read(&bytes, 8);
            argument.buffer.resize(bytes);
            read(argument.buffer.data(), bytes);
        }
    }
    Arguments again = arguments;
    launch(kernels.at(name), blocks, threads, arguments, false);
    launch(kernels.at(name), blocks, threads, again, true);
    for (unsigned int i = 0; i < count; ++i) {
        auto &buffer = arguments[i].buffer;
        if (buffer != again[i].buffer) fail("the result depends on the order of the threads: a barrier is missing");
        fwrite(buffer.data(), 1, buffer.size(), stdout);
    }
}
