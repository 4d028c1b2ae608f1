//! Problems of a configuration file: all at once, each with its place, a caret, what was
//! expected and the nearest right name.

use std::{fmt, ops::Range, path::PathBuf};

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Octets of the text that it is about.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What was expected, or what to do.
    pub help: Option<String>,
}

/// Every problem of one file, in the order of the text.
#[derive(Clone, Debug)]
pub struct Problems {
    /// The file.
    pub file: PathBuf,
    /// Its text.
    pub text: String,
    /// At least one.
    pub list: Vec<Problem>,
}

impl Problems {
    /// Line and column, from 1, of an octet; columns count characters.
    #[must_use]
    pub fn position(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line = before.matches('\n').count().saturating_add(1);
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            .saturating_add(1);
        (line, column)
    }

    fn render(&self, f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
        let (line, column) = self.position(problem.span.start);
        writeln!(
            f,
            "{}:{line}:{column}: {}",
            self.file.display(),
            problem.message
        )?;
        let text = self
            .text
            .lines()
            .nth(line.saturating_sub(1))
            .unwrap_or_default();
        let width = self.text.get(problem.span.clone()).map_or(1, |part| {
            part.lines()
                .next()
                .unwrap_or_default()
                .chars()
                .count()
                .max(1)
        });
        let gutter = line.to_string();
        let pad = " ".repeat(gutter.len());
        // tabs stay tabs, so that the caret stands under its text
        let indent: String = text
            .chars()
            .take(column.saturating_sub(1))
            .map(|c| if c == '\t' { c } else { ' ' })
            .collect();
        writeln!(f, "{pad} |")?;
        writeln!(f, "{gutter} | {text}")?;
        writeln!(f, "{pad} | {indent}{}", "^".repeat(width))?;
        if let Some(help) = &problem.help {
            writeln!(f, "{pad} = {help}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list
            .iter()
            .try_for_each(|problem| self.render(f, problem))
    }
}

impl std::error::Error for Problems {}
