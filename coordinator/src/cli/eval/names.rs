//! Names of factor files, by which tables tell them apart.

use std::path::{Component, Path, PathBuf};

/// The shortest trailing part of each path that no other path ends with: its file name, where that is the only one of its kind.
/// Equal paths have equal names.
pub fn names(paths: &[&Path]) -> Vec<String> {
    let paths: Vec<Vec<Component<'_>>> = paths.iter().map(|path| parts(path)).collect();
    let name = |path: &Vec<Component<'_>>| {
        let is_shared = |count: usize| {
            let mut others = paths.iter().filter(|other| *other != path);
            others.any(|other| tail(other, count) == tail(path, count))
        };
        // Another path may end with the whole of this one; the name of the other is longer then.
        let count = (1..path.len()).find(|&count| !is_shared(count)).unwrap_or(path.len());
        tail(path, count).iter().collect::<PathBuf>().display().to_string()
    };
    paths.iter().map(name).collect()
}

fn parts(path: &Path) -> Vec<Component<'_>> {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

/// The last parts, at most `count` of them.
fn tail<'a, 'b>(parts: &'a [Component<'b>], count: usize) -> &'a [Component<'b>] {
    &parts[parts.len().saturating_sub(count)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(paths: &[&str]) -> Vec<String> {
        names(&paths.iter().map(Path::new).collect::<Vec<_>>())
    }

    #[test]
    fn a_file_name_is_enough_where_it_is_the_only_one() {
        assert_eq!(named(&["a/factors.json"]), ["factors.json"]);
        assert_eq!(named(&["/x/a/near.json", "./all.json", "none"]), ["near.json", "all.json", "none"]);
        assert!(named(&[]).is_empty());
    }

    #[test]
    fn files_of_the_same_name_are_told_apart_by_their_folders() {
        assert_eq!(named(&["a/f.json", "b/f.json", "c/g.json"]), ["a/f.json", "b/f.json", "g.json"]);
        assert_eq!(named(&["x/a/f.json", "/y/a/f.json", "b/f.json"]), ["x/a/f.json", "y/a/f.json", "b/f.json"]);
        assert_eq!(named(&["f.json", "a/f.json", "../f.json"]), ["f.json", "a/f.json", "../f.json"]);
        assert_eq!(named(&["a/f.json", "/a/f.json"]), ["a/f.json", "/a/f.json"]);
        // A file may have the name of a method.
        assert_eq!(named(&["yarn", "a/yarn"]), ["yarn", "a/yarn"]);
    }

    #[test]
    fn equal_paths_have_equal_names() {
        assert_eq!(named(&["a/f.json", "./a/f.json"]), ["f.json", "f.json"]);
        assert_eq!(named(&["a/f.json", "a/f.json", "b/f.json"]), ["a/f.json", "a/f.json", "b/f.json"]);
    }
}
