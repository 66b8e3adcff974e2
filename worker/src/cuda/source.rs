//! The text of the kernels, as one program.

const FILES: [(&str, &str); 6] = [
    ("half.cuh", include_str!("kernels/half.cuh")),
    ("formats.cuh", include_str!("kernels/formats.cuh")),
    ("rotate.cu", include_str!("kernels/rotate.cu")),
    ("rows.cu", include_str!("kernels/rows.cu")),
    ("cross_entropy.cu", include_str!("kernels/cross_entropy.cu")),
    ("softmax.cu", include_str!("kernels/softmax.cu")),
];

/// `all.cu` with the files that it includes put in their place: the compiler finds no files where a worker runs.
pub(super) fn source() -> String {
    let mut text = String::new();
    for line in include_str!("kernels/all.cu").lines() {
        let file = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
        let file = FILES.iter().find(|(name, _)| Some(*name) == file);
        text.push_str(file.map_or(line, |(_, file)| file));
        text.push('\n');
    }
    text
}
