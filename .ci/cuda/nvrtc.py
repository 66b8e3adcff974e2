#!/usr/bin/env python3
"""Compiles the GPU kernels with NVIDIA's own compiler, which needs no GPU.

  nvrtc.py LIBRARY SOURCE [-DNAME=TEXT…] ARCHITECTURE…      for example nvrtc.py …/libnvrtc.so.13 worker/src/cuda/kernels/all.cu sm_80

LIBRARY is NVRTC's. To PTX for the architecture that a worker compiles for (the compiler's default), and to machine code for
those named. Warnings count as errors.
"""
import ctypes
import sys
from pathlib import Path


def compiled(nvrtc, source, options):
    """Bytes of the compiled program; exits with the compiler's messages where there is none."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    check = lambda status: status == 0 or sys.exit(f"NVRTC: status {status}")
    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None))
    options = [f"--include-path={source.parent}", "--std=c++17", *options]
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*map(str.encode, options)))
    check(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
    log = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetProgramLog(program, log))
    if failed or b"warning" in log.value:
        sys.exit(f"{source} with {' '.join(options)}:\n{log.value.decode()}")
    get = (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN) if any("sm_" in o for o in options) else (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
    check(get[0](program, ctypes.byref(size)))
    code = ctypes.create_string_buffer(size.value)
    check(get[1](program, code))
    check(nvrtc.nvrtcDestroyProgram(ctypes.byref(program)))
    return code.raw


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    library, source = Path(sys.argv[1]), Path(sys.argv[2])
    # NVRTC opens this one by its name alone.
    for builtins in library.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(builtins, ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(library)
    version = ctypes.c_int(), ctypes.c_int()
    nvrtc.nvrtcVersion(ctypes.byref(version[0]), ctypes.byref(version[1]))
    definitions = [a for a in sys.argv[3:] if a.startswith("-D")]
    ptx = compiled(nvrtc, source, definitions).decode()
    names = sorted(line.split()[2].rstrip("(") for line in ptx.splitlines() if line.startswith(".visible .entry"))
    print(f"NVRTC {version[0].value}.{version[1].value}: {len(names)} kernels: {' '.join(names)}")
    for architecture in (a for a in sys.argv[3:] if a not in definitions):
        code = compiled(nvrtc, source, [*definitions, f"--gpu-architecture={architecture}"])
        missing = [name for name in names if name.encode() not in code]
        if missing or not names:
            sys.exit(f"{architecture}: no code for {missing or 'any kernel'}")
        print(f"{architecture}: {len(code)} bytes of machine code")


if __name__ == "__main__":
    main()
