//! Images of a node, with or without a cluster running on the data.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use coracle_config::DEFAULT_DATA_DIR;
use coracle_node::control::{Answer, Ask, ask};
use coracle_node::images;
use coracle_node::paths::Paths;

use crate::lifecycle::{absolute, expect_done, wait};

#[derive(Subcommand)]
pub enum ImageCommand {
    /// Take in an OCI or docker archive
    Import {
        file: PathBuf,
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
        data_dir: PathBuf,
    },
    /// List the images
    Ls {
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
        data_dir: PathBuf,
    },
    /// Remove an image
    Rm {
        name: String,
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
        data_dir: PathBuf,
    },
}

pub fn run(command: ImageCommand) -> Result<()> {
    let (data_dir, question) = match command {
        ImageCommand::Import { file, data_dir } => {
            let file = std::path::absolute(&file).with_context(|| format!("archive {}", file.display()))?;
            (data_dir, Ask::ImageImport { file })
        }
        ImageCommand::Ls { data_dir } => (data_dir, Ask::ImageList),
        ImageCommand::Rm { name, data_dir } => (data_dir, Ask::ImageRemove { name }),
    };
    let paths = Paths::new(&absolute(&data_dir)?);
    let answer = match wait(ask(&paths.socket(), &question))? {
        Some(answer) => answer,
        None => images::answer(&images::open(&paths)?, &question),
    };
    let Answer::Images { images } = answer else { return expect_done(answer) };
    for image in images {
        println!("{:<60} {:.19} {:>8.1} MB", image.names.join(","), image.id, image.bytes as f64 / 1e6);
    }
    Ok(())
}
