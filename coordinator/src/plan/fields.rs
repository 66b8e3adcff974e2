//! The fields of one table of a plan: each is taken once, with its type, and what is left at the end is unknown.

use super::problem::Problem;
use crate::units;
use std::fmt::Display;
use std::str::FromStr;
use toml::{Table, Value};

/// Largest number of entries in any list of a plan.
const MAX_LIST: usize = 1000;

/// A table that is being read.
pub(super) struct Fields<'a> {
    stage: Option<String>,
    table: Table,
    /// Fields that the table had at the beginning.
    given: Vec<String>,
    /// Fields that were asked for, for the message about one that was not.
    known: Vec<&'static str>,
    problems: &'a mut Vec<Problem>,
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// Of the plan itself.
    pub(super) fn of_plan(table: Table, problems: &'a mut Vec<Problem>) -> Self {
        Self { stage: None, given: names(&table), table, known: Vec::new(), problems }
    }

    /// Of a stage, under the name that messages give it.
    pub(super) fn of_stage(stage: &str, table: Table, problems: &'a mut Vec<Problem>) -> Self {
        Self { stage: Some(stage.to_owned()), given: names(&table), table, known: Vec::new(), problems }
    }

    /// Notes a problem of a field.
    pub(super) fn problem(&mut self, field: &str, reason: impl Display) {
        let (stage, field) = (self.stage.clone(), field.to_owned());
        self.problems.push(Problem { stage, field, reason: reason.to_string() });
    }

    /// The raw value.
    pub(super) fn take(&mut self, field: &'static str) -> Option<Value> {
        self.known.push(field);
        self.table.remove(field)
    }

    /// A text.
    pub(super) fn text(&mut self, field: &'static str) -> Option<String> {
        match self.take(field)? {
            Value::String(text) => Some(text),
            other => self.wrong(field, &other, "a text"),
        }
    }

    /// A whole number that fits the type.
    pub(super) fn whole<T: TryFrom<i64>>(&mut self, field: &'static str) -> Option<T> {
        let value = self.take(field)?;
        match value.as_integer().and_then(|number| T::try_from(number).ok()) {
            Some(number) => Some(number),
            None => self.wrong(field, &value, "a whole number, not negative and not too large"),
        }
    }

    /// A number; whether it makes sense is checked with everything else.
    pub(super) fn number(&mut self, field: &'static str) -> Option<f64> {
        let value = self.take(field)?;
        match value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64)) {
            Some(number) => Some(number),
            None => self.wrong(field, &value, "a number"),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, field: &'static str) -> Option<bool> {
        match self.take(field)? {
            Value::Boolean(flag) => Some(flag),
            other => self.wrong(field, &other, "true or false"),
        }
    }

    /// A text or a number, as the type reads it.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&mut self, field: &'static str) -> Option<T> {
        let text = match self.take(field)? {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            other => return self.wrong(field, &other, "a text or a number"),
        };
        text.parse().map_err(|error| self.problem(field, error)).ok()
    }

    /// A length in tokens: 8192 or "8k".
    pub(super) fn length(&mut self, field: &'static str) -> Option<u32> {
        let value = self.take(field)?;
        self.as_length(field, &value)
    }

    /// Lengths in tokens.
    pub(super) fn lengths(&mut self, field: &'static str) -> Option<Vec<u32>> {
        let values = self.list(field)?;
        values.iter().map(|value| self.as_length(field, value)).collect()
    }

    /// Whole numbers.
    pub(super) fn wholes(&mut self, field: &'static str) -> Option<Vec<u32>> {
        let values = self.list(field)?;
        let read = |value: &Value| value.as_integer().and_then(|number| u32::try_from(number).ok());
        match values.iter().map(read).collect() {
            Some(numbers) => Some(numbers),
            None => self.wrong(field, &Value::Array(values), "a list of whole numbers"),
        }
    }

    /// Texts.
    pub(super) fn texts(&mut self, field: &'static str) -> Option<Vec<String>> {
        let values = self.list(field)?;
        match values.iter().map(|value| value.as_str().map(str::to_owned)).collect() {
            Some(texts) => Some(texts),
            None => self.wrong(field, &Value::Array(values), "a list of texts"),
        }
    }

    /// Notes that a field which cannot be done without is absent, unless it was there and wrong.
    pub(super) fn required<T>(&mut self, field: &'static str, value: Option<T>, what: &str) -> Option<T> {
        let noted = |problem: &Problem| problem.field == field && problem.stage == self.stage;
        if value.is_none() && !self.problems.iter().any(noted) {
            self.problem(field, format!("is missing: {what}"));
        }
        value
    }

    /// Whether the table had a field, which may have been taken.
    pub(super) fn was_given(&self, field: &str) -> bool {
        self.given.iter().any(|given| given == field)
    }

    /// Ends the table: what nobody asked for is no field.
    pub(super) fn finish(mut self, of: &str) {
        let unknown: Vec<String> = self.table.keys().cloned().collect();
        for field in unknown {
            let known = self.known.join(", ");
            self.problem(&field, format!("is no field of {of}; its fields are {known}"));
        }
    }

    fn list(&mut self, field: &'static str) -> Option<Vec<Value>> {
        match self.take(field)? {
            Value::Array(values) if values.len() <= MAX_LIST => Some(values),
            Value::Array(values) => {
                self.problem(field, format!("has {} entries, at most {MAX_LIST} are read", values.len()));
                None
            }
            other => self.wrong(field, &other, "a list"),
        }
    }

    fn as_length(&mut self, field: &'static str, value: &Value) -> Option<u32> {
        let text = match value {
            Value::Integer(number) => number.to_string(),
            Value::String(text) => text.clone(),
            other => return self.wrong(field, other, "a length in tokens, for example 8192 or \"8k\""),
        };
        units::tokens(&text).map_err(|reason| self.problem(field, reason)).ok()
    }

    fn wrong<T>(&mut self, field: &'static str, value: &Value, expected: &str) -> Option<T> {
        let shown: String = value.to_string().chars().take(60).collect();
        self.problem(field, format!("is {shown}, expected {expected}"));
        None
    }
}

fn names(table: &Table) -> Vec<String> {
    table.keys().cloned().collect()
}
