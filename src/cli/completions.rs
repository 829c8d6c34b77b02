//! Shell completions of subcommands, options and method names, from the same tables as the usage.

use std::fmt::Write;

use crate::cli::commands::{COMMANDS, Shell};
use crate::cli::options::{OPTIONS, Takes};
use crate::cli::switches::{SWITCHES, Switch, SwitchValue};
use crate::rpc::Service;

/// Returns the completions in the shell's own language.
pub fn completions(shell: Shell) -> String {
    match shell {
        Shell::Bash => bash(),
        Shell::Zsh => zsh(),
        Shell::Fish => fish(),
    }
}

/// Returns the first word of each subcommand, each once.
fn commands() -> Vec<&'static str> {
    let mut words: Vec<_> =
        COMMANDS.iter().filter_map(|(words, _)| words.split(' ').next()).collect();
    words.dedup();
    words
}

/// Returns the subcommands that are followed by the id of a guest.
fn with_id() -> Vec<&'static str> {
    let pairs = COMMANDS.iter().filter_map(|(words, _)| words.split_once(' '));
    pairs
        .filter(|(_, rest)| *rest == "ID" || rest.starts_with("ID ["))
        .map(|(verb, _)| verb)
        .collect()
}

/// Returns the names of methods, which need no `Libvirt` in front.
fn methods() -> Vec<String> {
    let of = |service: Service| service.method_names().map(move |name| (service, name));
    let all = of(Service::Libvirt).chain(of(Service::Job)).chain(of(Service::ImageStore));
    all.map(|(service, name)| match service {
        Service::Libvirt => name.to_owned(),
        Service::ImageStore | Service::Job => format!("{}.{name}", service.name()),
    })
    .collect()
}

/// Returns the options that are not settings, each name once.
fn switches() -> impl Iterator<Item = &'static Switch> {
    let is_first = |index: usize, it: &Switch| SWITCHES[..index].iter().all(|e| e.name != it.name);
    SWITCHES.iter().enumerate().filter(move |(index, it)| is_first(*index, it)).map(|(_, it)| it)
}

/// Returns the values of an option that has few, as in `ssh|cloud-init`, separated by blanks.
fn choices(switch: &Switch) -> Option<String> {
    match switch.value {
        SwitchValue::One(value) if !value.contains(|c: char| c.is_ascii_uppercase()) => {
            Some(value.replace('|', " "))
        }
        _ => None,
    }
}

/// Returns whether the next argument is the value of this option.
fn has_value(switch: &Switch) -> bool {
    matches!(switch.value, SwitchValue::One(_) | SwitchValue::Many(_))
}

fn bash() -> String {
    let mut flags: Vec<String> = OPTIONS.iter().map(|it| format!("--{}", it.name)).collect();
    flags.extend(switches().map(|it| format!("--{}", it.name)));
    let options = OPTIONS.iter().filter(|it| it.takes != Takes::Switch).map(|it| it.name);
    let others = switches().filter(|it| has_value(it) && choices(it).is_none()).map(|it| it.name);
    let mut chosen = String::new();
    for switch in SWITCHES {
        if let Some(words) = choices(switch) {
            let of = switch.of.first().unwrap_or(&"");
            let short = switch.short.map(|letter| format!(" | -{letter}")).unwrap_or_default();
            let _ = writeln!(
                chosen,
                "    --{}{short}) [[ \" ${{COMP_WORDS[*]}} \" == *\" {of} \"* ]] &&
        COMPREPLY=($(compgen -W '{words}' -- \"$word\")) && return ;;",
                switch.name
            );
        }
    }
    let values: Vec<String> = options.chain(others).map(|it| format!("--{it}")).collect();
    format!(
        "# bash completion for mistify-libvirt.
_mistify_libvirt() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    COMPREPLY=()
    case $before in
{chosen}    {values}) compopt -o default 2>/dev/null; return ;;
    call) COMPREPLY=($(compgen -W '{methods}' -- \"$word\")); return ;;
    image) COMPREPLY=($(compgen -W 'import pull' -- \"$word\")); return ;;
    create | import) compopt -o default 2>/dev/null; return ;;
    {with_id})
        # Without an answer from the agent, complete no guest.
        COMPREPLY=($(compgen -W \"$(mistify-libvirt list 2>/dev/null |
            grep -o '\"id\":\"[^\"]*\"' | cut -d '\"' -f 4)\" -- \"$word\"))
        return
        ;;
    esac
    case $word in
    -*) COMPREPLY=($(compgen -W '{flags}' -- \"$word\")) ;;
    *) COMPREPLY=($(compgen -W '{commands}' -- \"$word\")) ;;
    esac
}}
complete -F _mistify_libvirt mistify-libvirt
",
        values = values.join(" | "),
        methods = methods().join(" "),
        with_id = with_id().join(" | "),
        flags = flags.join(" "),
        commands = commands().join(" "),
    )
}

/// Escapes a text for single quotes.
fn quoted(text: &str) -> String {
    text.replace('\'', "'\\''")
}

fn zsh() -> String {
    let mut flags = String::new();
    // These characters have a special meaning for `_arguments`.
    let plain = |text: &str| quoted(text).replace(['[', ']', ':'], " ");
    for option in OPTIONS {
        let (star, value) = match option.takes {
            Takes::Switch => ("", String::new()),
            Takes::One(value) => ("", format!(":{}:_default", plain(value))),
            Takes::Many(value) => ("*", format!(":{}:_default", plain(value))),
        };
        let _ = writeln!(flags, "    '{star}--{}[{}]{value}'", option.name, plain(option.help));
    }
    for switch in switches() {
        let rows = SWITCHES.iter().filter(|row| row.name == switch.name);
        let value = match rows.filter_map(choices).next() {
            Some(words) => format!("::value:({words})"),
            None if has_value(switch) => ":file:_files".to_owned(),
            None => String::new(),
        };
        let star = if matches!(switch.value, SwitchValue::Many(_)) { "*" } else { "" };
        let _ = writeln!(flags, "    '{star}--{}[{}]{value}'", switch.name, plain(switch.help));
    }
    format!(
        "#compdef mistify-libvirt
# zsh completion for mistify-libvirt.
local -a flags
flags=(
{flags})
case $words[CURRENT-1] in
call) compadd -- {methods} ;;
image) compadd -- import pull ;;
{with_id})
    compadd -- ${{(f)\"$(mistify-libvirt list 2>/dev/null |
        grep -o '\"id\":\"[^\"]*\"' | cut -d '\"' -f 4)\"}}
    ;;
*) _arguments $flags '1:command:({commands})' '*:file:_files' ;;
esac
",
        methods = methods().join(" "),
        with_id = with_id().join(" | "),
        commands = commands().join(" "),
    )
}

fn fish() -> String {
    let mut text = "# fish completion for mistify-libvirt.\n".to_owned();
    let complete = "complete -c mistify-libvirt";
    let none_yet = "-n __fish_use_subcommand";
    for (words, help) in COMMANDS {
        let verb = words.split(' ').next().unwrap_or_default();
        let _ = writeln!(text, "{complete} {none_yet} -f -a {verb} -d '{}'", quoted(help));
    }
    for option in OPTIONS {
        let short = option.short.map(|letter| format!(" -s {letter}")).unwrap_or_default();
        let value = if option.takes == Takes::Switch { "" } else { " -r" };
        let help = quoted(option.help);
        let _ = writeln!(text, "{complete} -l {}{short}{value} -d '{help}'", option.name);
    }
    for switch in SWITCHES {
        let value = match choices(switch) {
            Some(words) => {
                let of = switch.of.first().unwrap_or(&"");
                format!(" -n '__fish_seen_subcommand_from {of}' -x -a '{words}'")
            }
            None if has_value(switch) => " -r".to_owned(),
            None => String::new(),
        };
        let short = switch.short.map(|letter| format!(" -s {letter}")).unwrap_or_default();
        let help = quoted(switch.help);
        let _ = writeln!(text, "{complete} -l {}{short}{value} -d '{help}'", switch.name);
    }
    let list = "(mistify-libvirt list 2>/dev/null | string match -ra '(?<=\"id\":\")[^\"]*')";
    for verb in with_id() {
        let seen = format!("-n '__fish_seen_subcommand_from {verb}'");
        let _ = writeln!(text, "{complete} {seen} -f -a '{}'", quoted(list));
    }
    let seen = "-n '__fish_seen_subcommand_from call'";
    let _ = writeln!(text, "{complete} {seen} -f -a '{}'", methods().join(" "));
    let _ = writeln!(text, "{complete} -n '__fish_seen_subcommand_from image' -a 'import pull'");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_completes_commands_options_and_methods() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions(shell);
            let words: Vec<&str> = text
                .split(|c: char| !(c.is_ascii_alphanumeric() || "-.".contains(c)))
                .map(|word| word.trim_start_matches('-'))
                .collect();
            for word in commands() {
                assert!(words.contains(&word), "{shell:?}: {word}");
            }
            for option in OPTIONS {
                assert!(words.contains(&option.name), "{shell:?}: {}", option.name);
            }
            for switch in SWITCHES {
                assert!(words.contains(&switch.name), "{shell:?}: {}", switch.name);
            }
            for method in methods() {
                assert!(words.contains(&method.as_str()), "{shell:?}: {method}");
            }
        }
        assert_eq!(with_id()[..2], ["status", "run"]);
        assert!(with_id().contains(&"ssh") && !with_id().contains(&"create"));
    }
}
