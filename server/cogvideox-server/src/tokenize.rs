//! `cogvideox-server tokenize`: prompts in, token ids out, a JSON value a line each way.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use cogvideox::ModelDescription;

use crate::config::{Config, ModelPath};
use crate::download::{Extent, available};
use crate::model::ModelSource;
use crate::model_files::ModelFiles;

/// Read one JSON string a line on stdin and print its token ids.
#[derive(Debug, Args)]
pub struct Tokenize {
    /// A model folder in diffusers' layout, a name or repository as `download` takes it, or "demo"; the configured model
    /// if not given.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
}

#[derive(serde::Serialize)]
struct Line {
    ids: Vec<u32>,
    untruncated_len: usize,
}

impl Tokenize {
    /// Answers line by line until the input ends.
    ///
    /// # Errors
    /// A model folder without a usable tokenizer; a line that is not a JSON string, by its number.
    pub(crate) fn run(
        self,
        mut config: Config,
        files: &ModelFiles,
        input: impl BufRead,
        output: &mut impl Write,
    ) -> anyhow::Result<()> {
        if let Some(path) = self.model {
            config.model.path = ModelPath::from(path);
        }
        config.model.path = available(files, &config.model.path, Extent::Small)?;
        let ModelDescription { tokenizer, max_prompt_tokens, .. } =
            ModelSource::new(&config.model).describe()?;
        for (index, line) in input.lines().enumerate() {
            let number = index + 1;
            let line = line.with_context(|| format!("stdin, line {number}"))?;
            let prompt: String = serde_json::from_str(&line)
                .with_context(|| format!("stdin, line {number}: expected a JSON string"))?;
            let tokens = tokenizer.encode(&prompt, max_prompt_tokens);
            let answer = Line { ids: tokens.ids, untruncated_len: tokens.untruncated_len };
            serde_json::to_writer(&mut *output, &answer)?;
            // At once, so that a caller can hold a conversation.
            writeln!(output)?;
            output.flush()?;
        }
        Ok(())
    }
}
