//! Plans that come with the program.

/// Name and text of each.
pub const ALL: [(&str, &str); 2] = [
    ("lab", include_str!("../../assets/plans/lab.toml")),
    ("longrope-llama2-2048k", include_str!("../../assets/plans/longrope-llama2-2048k.toml")),
];

/// The text of a preset.
pub fn text(name: &str) -> Option<&'static str> {
    ALL.into_iter().find(|(known, _)| *known == name).map(|(_, text)| text)
}
