//! Numbers as they are typed, within bounds.

/// Threads of the CPU: a number that a machine can have.
#[cfg(feature = "local")]
pub fn threads(text: &str) -> Result<usize, String> {
    count(text, 1024)
}

/// How many of something, at least one.
pub fn count(text: &str, most: usize) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("give a number from 1 to {most}"))
}

/// A sustained speed in TFLOP/s.
#[cfg(feature = "local")]
pub fn tflops(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok().filter(|speed| (1e-6..=1e9).contains(speed));
    speed.ok_or_else(|| "give TFLOP/s, a number above 0".to_owned())
}
