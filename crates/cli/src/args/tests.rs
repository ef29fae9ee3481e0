use super::*;
use clap::CommandFactory;

fn line(words: &str) -> Parsed {
    parse(std::iter::once("thinlayer").chain(words.split_whitespace()).map(OsString::from).collect())
}

fn run(words: &str) -> (Command, Global) {
    match line(words) {
        Parsed::Run(command, global) => (*command, *global),
        other => panic!("{words}: {other:?}"),
    }
}

fn wrong(words: &str) -> String {
    match line(words) {
        Parsed::Wrong { failure, .. } => {
            assert_eq!(failure.kind.code(), 2, "{words}");
            assert!(!failure.message.contains('\n'), "{words}: {failure}");
            failure.message
        }
        other => panic!("{words}: {other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    CommandLine::command().debug_assert();
}

/// The promise: `thinlayer [--root DIR] … COMMAND`, and the same after the command.
#[test]
fn global_options_stand_before_or_after_the_command() {
    let before =
        run("--root /r --storage-opt dm.fs=xfs --json --log-level debug --read-only --wait 3 --config /c ls")
            .1;
    let after =
        run("ls --root /r --storage-opt dm.fs=xfs --json --log-level debug --read-only --wait 3 --config /c")
            .1;
    assert_eq!(before, after);
    assert_eq!(before.root.as_deref(), Some(std::path::Path::new("/r")));
    assert_eq!(before.wait, Some(Duration::from_secs(3)));
    assert!(before.json && before.read_only);
    let both =
        run("--storage-opt dm.fs=xfs --root /a ls --storage-opt dm.basesize=1G --root /b --wait 0.5").1;
    assert_eq!(both.storage_opts, ["dm.fs=xfs", "dm.basesize=1G"]);
    assert_eq!(both.root.as_deref(), Some(std::path::Path::new("/b")));
    assert_eq!(both.wait, Some(Duration::from_millis(500)));
}

#[test]
fn every_promised_command_is_there_and_no_other() {
    let names: Vec<_> =
        CommandLine::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    assert_eq!(
        names,
        [
            "create", "mount", "umount", "rm", "resize", "ls", "tree", "inspect", "exists", "status",
            "check", "adopt", "serve", "pool", "stop"
        ]
    );
    for absent in [
        "changes a",
        "diff a",
        "apply a",
        "import f",
        "export n",
        "pool",
        "pool shrink",
        "check --dry-run",
        "serve --docker /x",
    ] {
        wrong(absent);
    }
}

#[test]
fn commands_know_their_arguments() {
    let (Command::Create(create), _) = run("create --parent p --size 20G c") else { panic!() };
    assert_eq!(
        (create.own.parent.as_deref(), create.own.size.as_deref(), create.own.id.as_str()),
        (Some("p"), Some("20G"), "c")
    );
    let (Command::Umount(umount), _) = run("umount --all c") else { panic!() };
    assert!(umount.own.all && umount.own.id == "c");
    let (Command::Check(check), _) = run("check --repair --dry-run") else { panic!() };
    assert!(check.own.repair && check.own.dry_run);
    let (Command::Rm(rm), _) = run("rm a b -- -c") else { panic!() };
    assert_eq!(rm.own.ids, ["a", "b", "-c"]);
    let (Command::Resize(resize), _) = run("resize c 1G") else { panic!() };
    assert_eq!((resize.own.id.as_str(), resize.own.size.as_str()), ("c", "1G"));
    let (Command::Pool(Pool::Grow(grow)), global) =
        run("--root /a pool grow --root /b --data +20G --metadata 1G")
    else {
        panic!()
    };
    assert_eq!((grow.own.data.as_deref(), grow.own.metadata.as_deref()), (Some("+20G"), Some("1G")));
    assert_eq!(global.root.as_deref(), Some(std::path::Path::new("/b")));
    assert_eq!(run("pool grow").0.name(), "pool grow");
    for words in [
        "create c",
        "mount c",
        "umount c",
        "rm c",
        "resize c 1G",
        "ls",
        "tree",
        "inspect c",
        "exists c",
        "status",
        "check",
        "adopt --from /d --yes",
        "serve",
        "stop",
    ] {
        let (command, _) = run(words);
        assert_eq!(command.name(), words.split(' ').next().unwrap());
    }
}

#[test]
fn nonsense_is_one_line_and_says_what() {
    assert!(wrong("frobnicate").contains("frobnicate"));
    assert!(wrong("creat x").contains("create"), "a similar command is proposed");
    assert!(wrong("rm").contains("<ID>"));
    assert!(wrong("ls --wait soon").contains("seconds"));
    assert!(wrong("ls --wait -1").contains("-1"));
    assert!(wrong("ls --log-level loud").contains("loud"));
    assert!(wrong("mount").contains("<ID>"));
    assert!(wrong("mount a b").contains('b'));
    assert!(wrong("").contains("--help"));
}

#[test]
fn help_is_a_command_too() {
    for (words, part) in [("help", "Commands:"), ("help create", "--parent"), ("help rm", "Examples:")] {
        let Parsed::Text(text) = line(words) else { panic!("{words}") };
        assert!(text.contains(part), "{words}: {text}");
    }
    assert!(wrong("help frobnicate").contains("frobnicate"));
}

#[test]
fn json_is_known_even_when_the_rest_is_wrong() {
    assert!(matches!(line("frobnicate --json"), Parsed::Wrong { json: true, .. }));
    assert!(matches!(line("rm --frob -- --json"), Parsed::Wrong { json: false, .. }));
}

/// The texts of `--help`, literally. `BLESS=1 cargo test -p thinlayer` writes them anew.
#[test]
fn help_texts() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    let mut top = CommandLine::command().term_width(110);
    top.build();
    let mut all = vec![("thinlayer".to_owned(), top.render_long_help().to_string())];
    for command in top.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        all.push((
            command.get_name().to_owned(),
            command.clone().term_width(110).render_long_help().to_string(),
        ));
        for deeper in command.get_subcommands() {
            all.push((
                format!("{}-{}", command.get_name(), deeper.get_name()),
                deeper.clone().term_width(110).render_long_help().to_string(),
            ));
        }
    }
    for (name, text) in all {
        assert!(name == "thinlayer" || text.contains("Examples:"), "{name} has no examples");
        let text: String = text.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
        let file = folder.join(name + ".txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let known = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, known, "{} differs from --help", file.display());
    }
}
