// SPDX-License-Identifier: GPL-2.0

//! The command line.

use std::io::IsTerminal;
use std::path::PathBuf;

pub(crate) const HELP: &str = "\
Usage: spp-demo [OPTION]...
Show which stores of a guest sub-page write permissions allow and deny.

  --device PATH   device of the module (default /dev/kvm-spp)
  --seed N        choose other random maps (default 1)
  --color WHEN    always, never or auto (default): on a terminal, unless
                  NO_COLOR is set
  --help          print this

Exit status: 0 if all is as the manual says, 1 if not, 2 if it could not run.
";

/// What to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    Help,
    Run(Options),
}

/// How to do it.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) device: PathBuf,
    pub(crate) seed: u64,
    pub(crate) color: Color,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Color {
    Always,
    Never,
    Auto,
}

impl Color {
    /// Whether to use them now.
    pub(crate) fn wanted(self) -> bool {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => !forbidden && std::io::stdout().is_terminal(),
        }
    }
}

/// Reads the arguments, without the program's name.
pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Action, String> {
    let mut options = Options {
        device: vmm::DEVICE.into(),
        seed: 1,
        color: Color::Auto,
    };
    let mut args = args.flat_map(split);
    while let Some(option) = args.next() {
        if option == "--help" || option == "-h" {
            return Ok(Action::Help);
        }
        let mut value = || args.next().ok_or(format!("{option} needs a value"));
        match option.as_str() {
            "--device" => options.device = value()?.into(),
            "--seed" => options.seed = value()?.parse().map_err(|e| format!("--seed: {e}"))?,
            "--color" => options.color = color(&value()?)?,
            _ => return Err(format!("unknown option {option}")),
        }
    }
    Ok(Action::Run(options))
}

/// `--name=value` as two arguments.
fn split(argument: String) -> Vec<String> {
    match argument.split_once('=') {
        Some((name, value)) if name.starts_with("--") => vec![name.into(), value.into()],
        _ => vec![argument],
    }
}

fn color(when: &str) -> Result<Color, String> {
    match when {
        "always" => Ok(Color::Always),
        "never" => Ok(Color::Never),
        "auto" => Ok(Color::Auto),
        _ => Err(format!("--color: {when} is not always, never or auto")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Action, String> {
        parse(words.split_whitespace().map(String::from))
    }

    #[test]
    fn options_are_read_in_both_forms() {
        let options = Options {
            device: "/d".into(),
            seed: 7,
            color: Color::Never,
        };
        let separate = parse_words("--device /d --seed 7 --color never");
        assert_eq!(separate, Ok(Action::Run(options)));
        assert_eq!(parse_words("--device=/d --seed=7 --color=never"), separate);
    }

    #[test]
    fn nothing_given_means_the_defaults() {
        let options = Options {
            device: vmm::DEVICE.into(),
            seed: 1,
            color: Color::Auto,
        };
        assert_eq!(parse_words(""), Ok(Action::Run(options)));
    }

    #[test]
    fn help_wins_and_nonsense_is_refused() {
        assert_eq!(parse_words("--seed 2 --help"), Ok(Action::Help));
        for bad in ["--seed", "--seed x", "--color blue", "--frob", "file"] {
            assert!(parse_words(bad).is_err(), "{bad}");
        }
    }
}
