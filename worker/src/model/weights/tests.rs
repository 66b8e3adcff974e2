use super::*;
use safetensors::tensor::TensorView;
use std::collections::HashMap;

fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], &[u8])]) {
    let views: HashMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()))
        .collect();
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn one_file() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let f32s: Vec<u8> = [1.5f32, -2.0, 0.25, 8.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let bf16s: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
    let f16s: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
    let tensors: [(&str, Dtype, &[usize], &[u8]); 4] = [
        ("single", Dtype::F32, &[2, 2], &f32s),
        ("brain", Dtype::BF16, &[2], &bf16s),
        ("half", Dtype::F16, &[2], &f16s),
        ("whole", Dtype::I64, &[1], &[0; 8]),
    ];
    write(&dir.path().join(SINGLE), &tensors);
    dir
}

fn read(dir: &Path, tensor: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
    let mut out = vec![7.0];
    WeightFiles::open(dir)?.find(tensor, shape)?.read(|numbers| out.extend_from_slice(numbers))?;
    Ok(out)
}

#[test]
fn every_format_is_widened_and_appended() {
    let dir = one_file();
    assert_eq!(read(dir.path(), "single", &[2, 2]).unwrap(), [7.0, 1.5, -2.0, 0.25, 8.0]);
    assert_eq!(read(dir.path(), "brain", &[2]).unwrap(), [7.0, 1.5, -2.0]);
    assert_eq!(read(dir.path(), "half", &[2]).unwrap(), [7.0, 1.5, -2.0]);
}

#[test]
fn long_tensors_come_in_whole_rows() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, width) = (10, 40_000);
    let numbers: Vec<f32> = (0..rows * width).map(|i| i as f32).collect();
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    write(
        &dir.path().join(SINGLE),
        &[("long", Dtype::F32, &[rows, width], &bytes), ("none", Dtype::F32, &[0, 4], &[])],
    );
    let files = WeightFiles::open(dir.path()).unwrap();
    let (mut read, mut blocks) = (Vec::new(), 0);
    let found = files.find("long", &[rows, width]).unwrap();
    found
        .read(|block| {
            assert!(block.len().is_multiple_of(width) && size_of_val(block) <= BLOCK_BYTES);
            read.extend_from_slice(block);
            blocks += 1;
        })
        .unwrap();
    assert!(read == numbers && blocks > 1);
    files.find("none", &[0, 4]).unwrap().read(|_| panic!("there are none")).unwrap();
}

#[test]
fn errors_name_file_tensor_and_both_shapes() {
    let dir = one_file();
    let error = read(dir.path(), "single", &[4, 3]).unwrap_err().to_string();
    for part in ["model.safetensors", "\"single\"", "[2, 2]", "[4, 3]"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(
        matches!(read(dir.path(), "absent", &[1]), Err(LoadError::MissingTensor { tensor, .. }) if tensor == "absent")
    );
    assert!(matches!(read(dir.path(), "whole", &[1]), Err(LoadError::TensorFormat { got, .. }) if got == "i64"));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(WeightFiles::open(empty.path()), Err(LoadError::NoWeights { .. })));
}

#[test]
fn cut_off_and_foreign_files_are_told_apart() {
    let dir = one_file();
    let path = dir.path().join(SINGLE);
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        match WeightFiles::open(dir.path()) {
            Err(LoadError::Truncated { expected, got, .. }) => assert!(got == length as u64 && expected > got),
            Err(LoadError::Header { .. } | LoadError::Io { .. }) => assert!(length < 8, "{length}"),
            other => panic!("{length} bytes: {other:?}"),
        }
    }
    let mut long = whole.clone();
    long.push(0);
    for content in [b"<html>404 not found</html>".to_vec(), vec![0xff; 64], long] {
        std::fs::write(&path, content).unwrap();
        assert!(matches!(WeightFiles::open(dir.path()), Err(LoadError::Header { .. })));
    }
}

#[test]
fn shards_are_found_by_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = 2.5f32.to_le_bytes();
    for (file, tensor) in [("b.safetensors", "two"), ("a.safetensors", "one")] {
        write(&dir.path().join(file), &[(tensor, Dtype::F32, &[1], &bytes)]);
    }
    let index = r#"{"weight_map": {"one": "a.safetensors", "two": "b.safetensors", "three": "b.safetensors"}}"#;
    std::fs::write(dir.path().join(INDEX), index).unwrap();
    assert_eq!(read(dir.path(), "two", &[1]).unwrap(), [7.0, 2.5]);
    let names: Vec<_> = files_of(dir.path()).unwrap().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["a.safetensors", "b.safetensors"]);
    std::fs::remove_file(dir.path().join("b.safetensors")).unwrap();
    assert!(
        matches!(WeightFiles::open(dir.path()), Err(LoadError::Io { path, .. }) if path.ends_with("b.safetensors"))
    );
}

#[test]
fn of_a_tensor_in_two_shards_the_index_names_one() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (1.0f32.to_le_bytes(), 2.0f32.to_le_bytes());
    write(&dir.path().join("a.safetensors"), &[("one", Dtype::F32, &[1, 1], &old), ("two", Dtype::F32, &[1], &new)]);
    write(&dir.path().join("b.safetensors"), &[("one", Dtype::F32, &[1], &new), ("two", Dtype::F32, &[1], &old)]);
    let index = r#"{"weight_map": {"one": "b.safetensors", "two": "a.safetensors"}}"#;
    std::fs::write(dir.path().join(INDEX), index).unwrap();
    for tensor in ["one", "two"] {
        assert_eq!(read(dir.path(), tensor, &[1]).unwrap(), [7.0, 2.0], "{tensor}");
    }
    let files = WeightFiles::open(dir.path()).unwrap();
    assert_eq!(files.shapes()["one"], [1]);
    // Nor is what does not count written again.
    let stored = files.stored().map(|(_, tensors)| tensors.map(|stored| stored.name).collect::<Vec<_>>());
    assert_eq!(stored.collect::<Vec<_>>(), [["two"], ["one"]]);
}

#[test]
fn an_index_cannot_lead_out_of_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", ".", "", "a\\b", "./a.safetensors", "a/"]
    {
        let index = serde_json::json!({"weight_map": {"one": name}}).to_string();
        std::fs::write(dir.path().join(INDEX), index).unwrap();
        assert!(matches!(files_of(dir.path()), Err(LoadError::Index { .. })), "{name:?}");
    }
    for index in ["", "{}", "[]", r#"{"weight_map": {}}"#, r#"{"weight_map": {"a": 1}}"#] {
        std::fs::write(dir.path().join(INDEX), index).unwrap();
        assert!(matches!(files_of(dir.path()), Err(LoadError::Index { .. })), "{index}");
    }
}

#[test]
fn a_pointer_of_git_lfs_says_how_to_fetch_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9976576152\n";
    std::fs::write(dir.path().join(SINGLE), pointer).unwrap();
    let error = WeightFiles::open(dir.path()).unwrap_err();
    assert!(matches!(&error, LoadError::LfsPointer { path } if path.ends_with(SINGLE)), "{error}");
    assert!(error.to_string().contains("git lfs pull"), "{error}");
}

#[test]
fn layers_that_the_decoder_does_not_have_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let norm = |layer: usize| format!("model.layers.{layer}.norm.weight");
    let names = [0, 1, 2, 10, 11].map(norm);
    let tensors = names.iter().map(String::as_str).chain(["model.norm.weight", "model.layers.x.norm.weight"]);
    let tensors: Vec<(&str, Dtype, &[usize], &[u8])> =
        tensors.map(|name| (name, Dtype::F32, &[1][..], &[0; 4][..])).collect();
    write(&dir.path().join(SINGLE), &tensors);
    let files = WeightFiles::open(dir.path()).unwrap();
    assert!(files.check_layers(12).is_ok());
    let error = files.check_layers(2).unwrap_err();
    assert!(
        matches!(&error, LoadError::SurplusLayer { tensor, layers: 2, found: 12, .. } if *tensor == names[2]),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains("12 layers") && text.contains("says 2 ") && text.contains("model.layers.2."), "{text}");
}
