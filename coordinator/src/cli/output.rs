//! Standard output: data for people and programs. Progress and hints go to standard error.

use super::failure::{Failure, OrFail as _, Outcome};
use serde::Serialize;
use std::io::{self, Write as _};

/// Prints a line of data. A reader that went away, as in `ropewalk jobs | head`, ends the program quietly.
pub fn line(text: impl AsRef<str>) -> Outcome {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref().as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|e| Failure::work(anyhow::Error::new(e).context("cannot write to standard output"))),
    }
}

/// Prints an event of work that is going on. A reader that went away ends the program with the work undone.
pub fn event(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string(value).or_work()? + "\n";
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::BrokenPipe => "nobody reads standard output",
            _ => "cannot write to standard output",
        };
        let what = format!("{what}; the same command goes on where it stopped");
        Failure::work(anyhow::Error::new(error).context(what))
    })
}

/// Prints one JSON value on one line.
pub fn json(value: &impl Serialize) -> Outcome {
    line(serde_json::to_string(value).or_work()?)
}

/// Prints a hint or a stage of the work to standard error.
pub fn note(text: impl AsRef<str>) {
    let mut err = io::stderr().lock();
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(err, "{}", text.as_ref());
}

/// Rows of text with aligned columns: the first to the left, the others to the right.
pub fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let render = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (cell, &width))| if i == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![render(header.to_vec())];
    lines.extend(rows.iter().map(|row| render(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

/// Seconds as people read them: `41 s`, `3 min 20 s`, `2 h 05 min`.
pub fn duration(seconds: f64) -> String {
    let total = seconds.round().max(0.0) as u64;
    match total {
        0..60 => format!("{total} s"),
        60..3600 => format!("{} min {:02} s", total / 60, total % 60),
        _ => format!("{} h {:02} min", total / 3600, total % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "10".to_owned()], vec!["long".to_owned(), "9".to_owned()]];
        assert_eq!(columns(&["x", "n"], &rows), "x      n\na     10\nlong   9");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(0.4), "0 s");
        assert_eq!(duration(200.0), "3 min 20 s");
        assert_eq!(duration(7500.0), "2 h 05 min");
    }
}
