"""Random models for the check: a configuration and bf16 weights in safetensors, the same bytes on every machine."""
import json
import random
import struct

SMALL = dict(hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4, head_dim=64, vocab_size=8192)
LARGE = dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=4, num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=32000)

# LLaMA2-7B but for the number of layers, which changes nothing but the weights and the time.
REACH = dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=2, num_attention_heads=32, num_key_value_heads=32, head_dim=128, vocab_size=32000)


def numbers(draw, count):
    """bf16 between 1/64 and 1/16 in magnitude: random sign and mantissa, one of two exponents."""
    high = draw.randbytes(count).translate(bytes([0x3C, 0xBC, 0x3D, 0xBD][byte % 4] for byte in range(256)))
    data = bytearray(2 * count)
    data[0::2], data[1::2] = draw.randbytes(count), high
    return bytes(data)


def write(folder, shape, window=None):
    """Writes a Llama, or a Mistral where there is a sliding window. Returns its configuration."""
    config = dict(shape, model_type="mistral" if window else "llama", max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=10000.0,
                  hidden_act="silu", tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, torch_dtype="bfloat16",
                  architectures=["MistralForCausalLM" if window else "LlamaForCausalLM"])
    if window:
        config["sliding_window"] = window
    hidden, inner, vocabulary = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    q, kv = (shape[heads] * shape["head_dim"] for heads in ("num_attention_heads", "num_key_value_heads"))
    tensors = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    for i in range(shape["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, rows, columns in (("self_attn.q_proj", q, hidden), ("self_attn.k_proj", kv, hidden), ("self_attn.v_proj", kv, hidden),
                                    ("self_attn.o_proj", hidden, q), ("mlp.gate_proj", inner, hidden), ("mlp.up_proj", inner, hidden),
                                    ("mlp.down_proj", hidden, inner)):
            tensors[f"{layer}{name}.weight"] = (rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{name}.weight"] = (hidden,)
    header, end = {}, 0
    for name, dims in tensors.items():
        size = 2 * dims[0] * (dims[1] if len(dims) == 2 else 1)
        header[name] = dict(dtype="BF16", shape=list(dims), data_offsets=[end, end + size])
        end += size
    text = json.dumps(header).encode()
    draw = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, dims in tensors.items():
            f.write(b"\x80\x3f" * dims[0] if len(dims) == 1 else numbers(draw, dims[0] * dims[1]))
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return config


def operations(config, tokens):
    """Floating-point operations of one pass: products of all weights, and scores and sums over the keys that are seen."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    head = config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer = hidden * (2 * q + 2 * kv) + 3 * hidden * config["intermediate_size"]
    keys = tokens * (tokens + 1) / 2
    return 2 * tokens * (layers * layer + config["vocab_size"] * hidden) + 4 * q * keys * layers
