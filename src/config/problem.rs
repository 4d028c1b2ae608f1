//! Problems of a configuration: all of a file at once, each with its place, a caret, what was
//! expected and the nearest right word.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

/// A configuration file's text, and which of its values name other files: what a message needs to
/// point at a place.
#[derive(Debug, Default)]
pub struct Source {
    /// As it was given.
    pub file: PathBuf,
    /// The whole text.
    pub text: String,
    /// Every file that is named, and where; in the order of reading.
    pub named: Vec<(PathBuf, Range<usize>)>,
    /// Every secret that is in no file of ours, as messages call it, and where it is named.
    pub references: Vec<(String, Range<usize>)>,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The configuration file.
    pub file: PathBuf,
    /// Octets of its text; `None`: it is about the file as a whole.
    pub span: Option<Range<usize>>,
    /// From 1; 0 without a place.
    pub line: usize,
    /// From 1, in characters; 0 without a place.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What was expected, or what to do.
    pub help: Option<String>,
    /// The nearest right word.
    pub suggestion: Option<String>,
}

/// Every problem of one file, in the order of its text; never empty.
#[derive(Clone, Debug)]
pub struct Problems {
    /// Where they are.
    pub source: Arc<Source>,
    /// At least one.
    pub list: Vec<Problem>,
    /// They are all of keys beside certificates that they do not fit, which may be about to.
    pub half: bool,
}

impl Source {
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
            .count();
        (line, column.saturating_add(1))
    }

    /// A problem at a place, or of the whole file.
    #[must_use]
    pub fn problem(
        &self,
        span: Option<Range<usize>>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Problem {
        let (line, column) = span
            .as_ref()
            .map_or((0, 0), |span| self.position(span.start));
        Problem {
            file: self.file.clone(),
            span,
            line,
            column,
            message: message.into(),
            help: Some(help.into()).filter(|help| !help.is_empty()),
            suggestion: None,
        }
    }

    /// A problem with a file that the configuration names, at the value that names it first: a key
    /// that can't be read, a certificate that has expired.
    #[must_use]
    pub fn problem_with(
        &self,
        path: &Path,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Problem {
        let named = self.named.iter().find(|(named, _)| named == path);
        let referred = || {
            let found = self
                .references
                .iter()
                .find(|(name, _)| Path::new(name) == path);
            found.map(|(_, span)| span.clone())
        };
        let place = named.map(|(_, span)| span.clone()).or_else(referred);
        self.problem(place, message, help)
    }
}

impl Problem {
    /// As rustc shows it: message, file, line, column, the line with a caret, and what to do.
    #[must_use]
    pub fn render(&self, source: &Source, color: bool) -> String {
        let file = self.file.display().to_string();
        let mut group = Level::ERROR
            .primary_title(self.message.as_str())
            .elements([] as [Snippet<'_, annotate_snippets::Annotation<'_>>; 0]);
        group = match self
            .span
            .as_ref()
            .and_then(|span| first_line(&source.text, span))
        {
            Some(span) => group.element(
                Snippet::source(source.text.as_str())
                    .path(file.as_str())
                    .annotation(AnnotationKind::Primary.span(span)),
            ),
            None => group.element(Origin::path(file.as_str())),
        };
        let nearest = self
            .suggestion
            .as_ref()
            .map(|word| format!("did you mean `{word}`?"));
        for help in [&nearest, &self.help].into_iter().flatten() {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        renderer.render(&[group])
    }
}

/// A caret under a whole table helps nobody: what stands on its first line.
fn first_line(text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    let marked = text.get(span.clone())?;
    let line = marked.lines().next().unwrap_or_default();
    Some(span.start..span.start.saturating_add(line.len()))
}

impl Problems {
    /// All of them, as a terminal shows them.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let all: Vec<String> = self
            .list
            .iter()
            .map(|problem| problem.render(&self.source, color))
            .collect();
        all.join("\n\n")
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problems {}
