//! Rules about the source that the compiler does not know: which layer may use which, where clocks
//! and `unsafe` may be, that no file is dead, and that nothing unfinished is left.
//!
//! Each rule is a function from a file to what is wrong with it, and each has a test that shows it
//! fire on a snippet: a checker that finds nothing could be one that looks at nothing.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

/// What a layer may name after `crate::`, besides itself.
struct Layer {
    name: &'static str,
    may_use: &'static [&'static str],
    /// Items under those that it may not name all the same, and why.
    except: &'static [(&'static str, &'static str)],
}

/// Stands for everything that `lib.rs` re-exports.
const PUBLIC: &str = "(public)";

const CONCRETE_RING: &str = "only the trait may be known here, not a concrete ring";

/// The table of layers on the page of `lib.rs`.
const LAYERS: &[Layer] = &[
    Layer {
        name: "kernels",
        may_use: &[],
        except: &[],
    },
    Layer {
        name: "proto",
        may_use: &["kernels"],
        except: &[],
    },
    // What is sent may lie in memory of a message's.
    Layer {
        name: "ring",
        may_use: &["kernels"],
        except: &[],
    },
    // Records go where frames go: into a sink.
    Layer {
        name: "tls",
        may_use: &["proto"],
        except: &[],
    },
    // It keeps frames, and knows their age.
    Layer {
        name: "topics",
        may_use: &["proto", "ring"],
        except: &[
            ("ring::uring", CONCRETE_RING),
            ("ring::Uring", CONCRETE_RING),
            ("ring::sim", CONCRETE_RING),
        ],
    },
    // Its defaults and bounds come from those who obey them.
    Layer {
        name: "config",
        may_use: &["proto", "ring", "conn"],
        except: &[],
    },
    Layer {
        name: "conn",
        may_use: &["proto", "ring", "config", "tls", "topics"],
        except: &[
            ("ring::uring", CONCRETE_RING),
            ("ring::Uring", CONCRETE_RING),
            ("ring::sim", CONCRETE_RING),
            ("ring::socket", "a connection does not know listeners"),
        ],
    },
    Layer {
        name: "shard",
        may_use: &["conn", "proto", "ring", "config", "tls", "topics"],
        except: &[
            ("ring::uring", CONCRETE_RING),
            ("ring::Uring", CONCRETE_RING),
            ("ring::sim", CONCRETE_RING),
        ],
    },
    // It drives connections as a shard does, on another loop.
    Layer {
        name: "aio",
        may_use: &[
            "conn", "proto", "ring", "config", "tls", "shard", "server", "client", PUBLIC,
        ],
        except: &[
            ("ring::uring", CONCRETE_RING),
            ("ring::Uring", CONCRETE_RING),
            ("ring::sim", CONCRETE_RING),
        ],
    },
    Layer {
        name: "service",
        may_use: &["proto", "aio", "topics", PUBLIC],
        except: &[],
    },
];

/// Edges that the table does not have, each with its reason.
const EDGES: &[(&str, &str, &str)] = &[(
    "src/shard/dial.rs",
    "client::Dial",
    "what is dialled is part of the public API, and the shard is who dials",
)];

/// Layers that may use all others.
const TOP: &[&str] = &["client", "lib", "server"];

const CLOCKS: &[&str] = &["Instant::now", "SystemTime::now", "clock_gettime"];

/// Where the time is asked for. Everywhere else it comes as an argument.
const CLOCK_PLACES: &[(&str, &str)] = &[
    ("src/ring/", "the ring is the clock"),
    (
        "src/conn/date.rs",
        "the Date header tells the time of day, once a second",
    ),
];

const UNSAFE_PLACES: &[(&str, &str)] = &[
    ("src/kernels/", "intrinsics"),
    ("src/ring/", "memory is shared with the kernel"),
    ("tests/echo_alloc.rs", "an allocator that counts"),
];

const SLEEP_PLACES: &[(&str, &str)] = &[
    (
        "loadgen/src/run.rs",
        "the thread that only reports is to stay out of the way of those that measure",
    ),
    (
        "loadgen/tests/engine/servers.rs",
        "a server that stalls on purpose: the sleep is what is measured",
    ),
];

/// Words that say that something is not finished, in code and in comments. Split here, so that this
/// file does not contain them.
const UNFINISHED: &[&str] = &[
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("dbg", "!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("#[ign", "ore"),
    concat!("allow(dead", "_code"),
    concat!("allow(un", "used"),
];

const COLUMNS_MAX: usize = 100;

/// Modules below the public API, which the load generator does without.
const HIDDEN: &[&str] = &["conn", "kernels", "ring", "shard"];

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// A source file, as it is and with comments and literals blanked out.
struct Source {
    /// From the root of the repository, with `/`.
    path: String,
    text: String,
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code: blank(text),
        }
    }

    fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding {
            file: self.path.clone(),
            line,
            what: what.into(),
        }
    }

    fn is_in(&self, places: &[(&str, &str)]) -> bool {
        places.iter().any(|(place, _)| {
            self.path == *place || place.ends_with('/') && self.path.starts_with(place)
        })
    }

    /// The line of a byte of the code.
    fn line_at(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    /// Where this stands as a whole word or path in the code.
    fn places_of<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let found = self.code.match_indices(word).map(|(at, _)| at);
        found.filter(move |&at| {
            let before = self.code[..at].chars().next_back();
            let after = self.code[at + word.len()..].chars().next();
            let inside = |char: Option<char>| char.is_some_and(is_word);
            !inside(before) && !inside(after)
        })
    }

    /// The layer, for a file of `src`.
    fn layer(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        let first = rest.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// Replaces comments, strings and character literals by spaces, line by line.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    let put = |code: &mut String, char: char| code.push(if char == '\n' { '\n' } else { ' ' });
    while at < chars.len() {
        let rest = &chars[at..];
        let end = match rest {
            ['/', '/', ..] => rest
                .iter()
                .position(|&char| char == '\n')
                .unwrap_or(rest.len()),
            ['/', '*', ..] => end_of_block_comment(rest),
            ['"', ..] => end_of_string(rest),
            ['r', '"' | '#', ..] if !code.ends_with(is_word) => end_of_raw_string(rest),
            ['\'', '\\', ..] => {
                2 + rest[2..]
                    .iter()
                    .skip(1)
                    .position(|&c| c == '\'')
                    .unwrap_or(0)
                    + 2
            }
            ['\'', _, '\'', ..] => 3,
            _ => 0,
        };
        if end == 0 {
            code.push(chars[at]);
            at += 1;
        } else {
            for &char in &rest[..end.min(rest.len())] {
                put(&mut code, char);
            }
            at += end;
        }
    }
    code
}

fn end_of_block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match (rest[at], rest[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn end_of_string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// 0 when it is none: `r#type` is a name.
fn end_of_raw_string(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&char| char == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let mut at = 2 + hashes;
    while at < rest.len() {
        let closed = rest[at] == '"'
            && rest.len() > at + hashes
            && rest[at + 1..=at + hashes].iter().all(|&char| char == '#');
        if closed {
            return at + 1 + hashes;
        }
        at += 1;
    }
    rest.len()
}

/// Every path of a use tree that begins at `at`, in full: `a::{b, c::D}` is `a::b` and `a::c::D`.
/// Each comes with where its first segment stands.
fn paths(code: &str, at: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    path_tree(code, at, "", at, &mut found);
    found
}

/// Reads one tree and returns where it ends.
fn path_tree(
    code: &str,
    mut at: usize,
    prefix: &str,
    start: usize,
    found: &mut Vec<(usize, String)>,
) -> usize {
    let skip = |mut at: usize| {
        while code[at..].starts_with(char::is_whitespace) {
            at += 1;
        }
        at
    };
    at = skip(at);
    let start = if prefix.is_empty() { at } else { start };
    if code[at..].starts_with('{') {
        at += 1;
        loop {
            at = skip(at);
            if at >= code.len() || code[at..].starts_with('}') {
                return (at + 1).min(code.len());
            }
            at = skip(path_tree(code, at, prefix, start, found));
            while at < code.len() && !code[at..].starts_with([',', '}']) {
                // `as name`
                at += 1;
            }
            if code[at..].starts_with(',') {
                at += 1;
            }
        }
    }
    let len = code[at..]
        .find(|char| !is_word(char))
        .unwrap_or(code.len() - at);
    let segment = &code[at..at + len];
    let path = if prefix.is_empty() {
        segment.to_owned()
    } else {
        format!("{prefix}::{segment}")
    };
    at += len;
    if code[at..].starts_with("::") {
        return path_tree(code, at + 2, &path, start, found);
    }
    found.push((start, path));
    at
}

/// What a file names from the root of the crate, and where.
fn crate_paths(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in source.places_of("crate") {
        if source.code[at..].starts_with("crate::") {
            found.extend(paths(&source.code, at + "crate::".len()));
        }
    }
    // In `src/layer/mod.rs` the root is one step up, in its other files two.
    let up = match (source.layer(), source.path.ends_with("/mod.rs")) {
        (Some(_), true) if source.path.matches('/').count() == 2 => "super::",
        (Some(_), false) if source.path.matches('/').count() == 2 => "super::super::",
        _ => return found,
    };
    for (at, _) in source.code.match_indices(up) {
        let inside_module =
            source.code[..at].matches('{').count() > source.code[..at].matches('}').count();
        let in_use_tree = source.code[..at]
            .rfind("use ")
            .is_some_and(|start| !source.code[start..at].contains(';'));
        let longer = source.code[..at].ends_with("super::");
        if !longer && (!inside_module || in_use_tree && is_top_level_use(source, at)) {
            found.extend(paths(&source.code, at + up.len()));
        }
    }
    found
}

/// Whether the `use` before `at` stands outside of every block.
fn is_top_level_use(source: &Source, at: usize) -> bool {
    let start = source.code[..at].rfind("use ").unwrap_or(0);
    source.code[..start].matches('{').count() == source.code[..start].matches('}').count()
}

fn edges(source: &Source) -> Vec<Finding> {
    let Some(name) = source.layer().filter(|name| !TOP.contains(name)) else {
        return Vec::new();
    };
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
        return vec![source.finding(1, format!("the layer '{name}' is not in the table"))];
    };
    let mut findings = Vec::new();
    for (at, path) in crate_paths(source) {
        let first = path.split("::").next().unwrap_or("");
        let public = first.starts_with(char::is_uppercase);
        let allowed = first == name
            || layer.may_use.contains(&first)
            || public && layer.may_use.contains(&PUBLIC);
        let listed = EDGES
            .iter()
            .any(|(file, edge, _)| *file == source.path && *edge == path);
        let line = source.line_at(at);
        if !allowed && !listed {
            let what = format!("the layer {name} must not use {path}");
            findings.push(source.finding(line, what));
        }
        for (item, why) in layer.except {
            let below = path.strip_prefix(item);
            if below.is_some_and(|rest| rest.is_empty() || rest.starts_with("::")) {
                findings.push(source.finding(line, format!("{path} is used: {why}")));
            }
        }
    }
    findings
}

fn clocks(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("src/") || source.is_in(CLOCK_PLACES) {
        return Vec::new();
    }
    let calls = CLOCKS
        .iter()
        .flat_map(|clock| source.places_of(clock).map(move |at| (at, *clock)));
    calls
        .map(|(at, clock)| {
            let what = format!("{clock} is called: time comes as an argument here");
            source.finding(source.line_at(at), what)
        })
        .collect()
}

fn unsafe_code(source: &Source) -> Vec<Finding> {
    if source.is_in(UNSAFE_PLACES) {
        return Vec::new();
    }
    let found = source.places_of("unsafe");
    found
        .map(|at| {
            let what = "unsafe is allowed in src/kernels and src/ring only";
            source.finding(source.line_at(at), what)
        })
        .collect()
}

fn sleeps(source: &Source) -> Vec<Finding> {
    if source.is_in(SLEEP_PLACES) {
        return Vec::new();
    }
    let found = source.places_of("thread::sleep");
    found
        .map(|at| {
            let what = "a thread sleeps: wait for a condition, with a deadline";
            source.finding(source.line_at(at), what)
        })
        .collect()
}

fn columns(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().enumerate();
    let long = lines.filter(|(_, line)| line.chars().count() > COLUMNS_MAX);
    long.map(|(index, line)| {
        let what = format!("{} columns, of at most {COLUMNS_MAX}", line.chars().count());
        source.finding(index + 1, what)
    })
    .collect()
}

fn unfinished(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for word in UNFINISHED {
            let mut found = line.match_indices(word);
            let whole = found.any(|(at, _)| {
                !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word)
                    || word.contains('(')
                    || word.contains('[')
            });
            if whole {
                findings.push(source.finding(index + 1, format!("'{word}' is left")));
            }
        }
    }
    findings
}

/// The module's own page: that it is there, and for whole folders what the module refuses to know.
fn pages(source: &Source) -> Vec<Finding> {
    let is_root = ["lib.rs", "main.rs"]
        .iter()
        .any(|root| source.path.ends_with(root));
    let start = source.text.trim_start();
    // The library's and the server's.
    let inside = source.path.strip_prefix("server/").unwrap_or(&source.path);
    if !inside.starts_with("src/") {
        return Vec::new();
    }
    if !start.starts_with("//!") {
        return vec![source.finding(1, "the file has no page: begin it with //!")];
    }
    let folder = inside.ends_with("/mod.rs") || inside.matches('/').count() == 1;
    let page: Vec<&str> = start
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .map(|line| line.trim_start_matches("//!").trim())
        .collect();
    let page = page.join(" ");
    let says = ["efuses to know", "does not know", "othing here knows"];
    if folder && !is_root && !says.iter().any(|says| page.contains(says)) {
        return vec![source.finding(1, "the page does not say what the module refuses to know")];
    }
    Vec::new()
}

fn hidden_modules(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("loadgen/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for at in source.places_of("ringwire") {
        if !source.code[at..].starts_with("ringwire::") {
            continue;
        }
        for (at, path) in paths(&source.code, at + "ringwire::".len()) {
            let first = path.split("::").next().unwrap_or("");
            if HIDDEN.contains(&first) {
                let what = format!("ringwire::{path} is not public API");
                findings.push(source.finding(source.line_at(at), what));
            }
        }
    }
    findings
}

/// The files of these roots that no `mod` leads to.
fn dead_files(sources: &[Source], roots: &[&str]) -> Vec<Finding> {
    let mut alive: BTreeSet<String> = BTreeSet::new();
    let mut waiting: Vec<String> = roots.iter().map(|&root| root.to_owned()).collect();
    while let Some(path) = waiting.pop() {
        let Some(source) = sources.iter().find(|source| source.path == path) else {
            continue;
        };
        let is_root = roots.contains(&path.as_str());
        if alive.insert(path) {
            waiting.extend(modules(source, is_root));
        }
    }
    let dead = sources
        .iter()
        .filter(|source| !alive.contains(&source.path));
    dead.map(|source| source.finding(1, "no mod leads to this file: it is not compiled"))
        .collect()
}

/// The files that the `mod name;` lines of a file may mean.
fn modules(source: &Source, is_root: bool) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let stem = file.trim_end_matches(".rs");
    // A crate's root and a mod.rs have their modules beside them, any other file in its folder.
    let is_folder = is_root || stem == "mod";
    let below = if is_folder {
        folder.to_owned()
    } else {
        format!("{folder}/{stem}")
    };
    let mut found = Vec::new();
    for at in source.places_of("mod") {
        let rest = source.code[at + 3..].trim_start();
        let len = rest.find(|char| !is_word(char)).unwrap_or(rest.len());
        if len > 0 && rest[len..].trim_start().starts_with(';') {
            let name = &rest[..len];
            found.push(format!("{below}/{name}.rs"));
            found.push(format!("{below}/{name}/mod.rs"));
        }
    }
    // `#[path = "..."]`, which the code has blanked out.
    for line in source.text.lines() {
        let path = line
            .trim()
            .strip_prefix("#[path = \"")
            .and_then(|rest| rest.split('"').next());
        if let Some(path) = path {
            found.push(join(folder, path));
        }
    }
    found
}

fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').collect();
    for part in path.split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

type Rule = fn(&Source) -> Vec<Finding>;

const RULES: &[(&str, Rule)] = &[
    ("clocks", clocks),
    ("columns", columns),
    ("edges", edges),
    ("hidden modules", hidden_modules),
    ("pages", pages),
    ("sleeps", sleeps),
    ("unfinished", unfinished),
    ("unsafe code", unsafe_code),
];

fn read_all(root: &Path, folder: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path: PathBuf = entry.expect("a readable folder").path();
            if path.is_dir() {
                // What a workspace of its own has built there.
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a readable file");
                let relative = path.strip_prefix(root).expect("it is below the root");
                sources.push(Source::new(&relative.to_string_lossy(), &text));
            }
        }
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

fn repository() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src", "server", "tests", "examples", "benches", "loadgen"];
    folders
        .iter()
        .flat_map(|folder| read_all(root, folder))
        .collect()
}

/// Targets: each is compiled on its own, whatever else leads to it.
fn roots<'a>(sources: &'a [Source], declared: &[&'a str]) -> Vec<&'a str> {
    let mut roots = vec![
        "src/lib.rs",
        "loadgen/src/lib.rs",
        "loadgen/src/main.rs",
        "server/src/main.rs",
    ];
    roots.extend(declared);
    for source in sources {
        let parts: Vec<&str> = source.path.split('/').collect();
        let target = matches!(
            parts[..],
            ["tests" | "examples", _]
                | ["tests" | "examples", _, "main.rs"]
                | ["benches", "peers", "src", "lib.rs"]
                | ["benches", "peers", "src", "bin", _]
                | ["loadgen", "build.rs"]
                | ["server", "tests", _]
                | ["server", "tests", _, "main.rs"]
                | ["loadgen", "tests" | "examples" | "benches", _]
                | ["loadgen", "tests" | "examples" | "benches", _, "main.rs"]
        );
        if target {
            roots.push(&source.path);
        }
    }
    roots
}

/// Targets that a manifest names by their path, as benches do: Cargo does not look for them.
fn declared(manifest: &str) -> Vec<&str> {
    manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'))
        .collect()
}

#[test]
fn the_source_keeps_its_rules() {
    let sources = repository();
    assert!(
        sources.len() > 50,
        "only {} files were found",
        sources.len()
    );
    let mut findings: Vec<Finding> = Vec::new();
    for source in &sources {
        for (_, rule) in RULES {
            findings.extend(rule(source));
        }
    }
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .expect("a readable manifest");
    let roots = roots(&sources, &declared(&manifest));
    findings.extend(dead_files(&sources, &roots));
    findings.sort();
    let report: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(
        findings.is_empty(),
        "{} findings:\n{}",
        findings.len(),
        report.join("\n")
    );
}

/// An exception that is not needed any more would hide the next mistake.
#[test]
fn every_exception_is_used() {
    let sources = repository();
    for (file, edge, _) in EDGES {
        let source = sources.iter().find(|source| source.path == *file);
        let used =
            source.is_some_and(|source| crate_paths(source).iter().any(|(_, path)| path == edge));
        assert!(used, "{file} does not use {edge}: take the exception away");
    }
    for (place, words) in CLOCK_PLACES
        .iter()
        .map(|(place, _)| (place, CLOCKS))
        .chain(
            UNSAFE_PLACES
                .iter()
                .map(|(place, _)| (place, &["unsafe"][..])),
        )
        .chain(
            SLEEP_PLACES
                .iter()
                .map(|(place, _)| (place, &["thread::sleep"][..])),
        )
    {
        let inside = sources
            .iter()
            .filter(|source| source.path.starts_with(place));
        let used = inside
            .flat_map(|source| words.iter().map(move |word| source.places_of(word).count()))
            .sum::<usize>();
        assert!(
            used > 0,
            "{place} has none of {words:?}: take the exception away"
        );
    }
}

// The rules, shown to fire.

fn found(rule: Rule, path: &str, text: &str) -> Vec<(usize, String)> {
    let findings = rule(&Source::new(path, text));
    findings
        .into_iter()
        .map(|finding| (finding.line, finding.what))
        .collect()
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = "a // unsafe\n/* unsafe /* unsafe */ unsafe */ b\n\"unsafe \\\" unsafe\" c \
                r#\"unsafe \" unsafe\"# d '\"' e '\\'' f 'a 'b r#type";
    let code = blank(text);
    assert_eq!(code.matches("unsafe").count(), 0, "{code}");
    for word in ["a", "b", "c", "d", "e", "f", "'a", "'b", "r#type"] {
        assert!(
            code.split_whitespace().any(|part| part == word),
            "{word} is gone: {code}"
        );
    }
    assert_eq!(code.lines().count(), text.lines().count());
}

#[test]
fn use_trees_are_read_in_full() {
    let code = "use crate::{a, b::{C, d::{self, E as F}}, g::*, H};";
    let all: Vec<String> = paths(code, 11).into_iter().map(|(_, path)| path).collect();
    assert_eq!(all, ["a", "b::C", "b::d::self", "b::d::E", "g::", "H"]);
}

#[test]
fn an_edge_that_is_not_in_the_table_is_found_where_it_stands() {
    let upward = "//! x\n\nuse crate::{\n    kernels::mask,\n    ring::Errno,\n};\n";
    let expected = [(5, "the layer proto must not use ring::Errno".to_owned())];
    assert_eq!(found(edges, "src/proto/frame.rs", upward), expected);
    assert_eq!(found(edges, "src/server.rs", upward), []);
    assert_eq!(
        found(edges, "src/proto/frame.rs", "use crate::proto::Role;"),
        []
    );
    assert_eq!(
        found(edges, "src/kernels/mod.rs", "use crate::proto::Role;").len(),
        1
    );
    assert_eq!(
        found(edges, "src/ring/sim/mod.rs", "fn f(x: crate::Config) {}").len(),
        1
    );
    assert_eq!(
        found(edges, "src/proto/a.rs", "use super::super::conn::Key;").len(),
        1
    );
    assert_eq!(
        found(edges, "src/proto/mod.rs", "use super::conn::Key;").len(),
        1
    );
    assert_eq!(
        found(edges, "src/proto/a.rs", "use super::frame::Opcode;"),
        []
    );
    assert_eq!(found(edges, "src/strange/mod.rs", "").len(), 1);
}

#[test]
fn concrete_rings_and_listeners_are_kept_out_of_the_middle() {
    let uses = "use crate::ring::{Ring, Uring, socket::Listener, uring::UringOptions};";
    assert_eq!(found(edges, "src/conn/mod.rs", uses).len(), 3);
    assert_eq!(found(edges, "src/shard/mod.rs", uses).len(), 2);
    assert_eq!(found(edges, "src/client.rs", uses), []);
    let dial = "use crate::client::Dial;";
    assert_eq!(found(edges, "src/shard/dial.rs", dial), []);
    assert_eq!(found(edges, "src/shard/accept.rs", dial).len(), 1);
    assert_eq!(
        found(edges, "src/shard/dial.rs", "use crate::client::Client;").len(),
        1
    );
    let public = "use crate::{Conn, Service, proto::handshake::Answer};";
    assert_eq!(found(edges, "src/service/echo.rs", public), []);
    assert_eq!(found(edges, "src/shard/accept.rs", public).len(), 2);
    assert_eq!(
        found(edges, "src/service/echo.rs", "use crate::conn::Link;").len(),
        1
    );
}

#[test]
fn clocks_are_found_outside_of_their_places() {
    for call in [
        "Instant::now()",
        "std::time::SystemTime::now()",
        "clock_gettime(x)",
    ] {
        let text = format!("fn f() {{\n    {call};\n}}");
        assert_eq!(found(clocks, "src/conn/mod.rs", &text).len(), 1, "{call}");
        assert_eq!(found(clocks, "src/conn/mod.rs", &text)[0].0, 2);
        assert_eq!(found(clocks, "src/ring/uring.rs", &text), []);
        assert_eq!(found(clocks, "src/conn/date.rs", &text), []);
        assert_eq!(found(clocks, "src/shard/accept.rs", &text).len(), 1);
    }
    assert_eq!(found(clocks, "src/conn/mod.rs", "// Instant::now()"), []);
}

#[test]
fn unsafe_is_found_outside_of_its_places() {
    let text = "fn f() {\n    unsafe { g() }\n}";
    assert_eq!(found(unsafe_code, "src/proto/mod.rs", text).len(), 1);
    assert_eq!(found(unsafe_code, "tests/server/main.rs", text).len(), 1);
    assert_eq!(found(unsafe_code, "src/kernels/mask/mod.rs", text), []);
    assert_eq!(
        found(
            unsafe_code,
            "src/proto/mod.rs",
            "#![deny(unsafe_code)] // unsafe"
        ),
        []
    );
}

#[test]
fn sleeping_threads_are_found() {
    let text = "std::thread::sleep(x);";
    assert_eq!(found(sleeps, "tests/server/main.rs", text).len(), 1);
    assert_eq!(found(sleeps, "loadgen/src/run.rs", text), []);
}

#[test]
fn long_lines_are_found_by_characters() {
    let fits = "ü".repeat(100);
    assert_eq!(found(columns, "src/lib.rs", &fits), []);
    assert_eq!(found(columns, "src/lib.rs", &format!("\n{fits}x"))[0].0, 2);
}

#[test]
fn what_is_unfinished_is_found_in_code_and_comments() {
    for word in UNFINISHED {
        assert_eq!(
            found(unfinished, "src/lib.rs", &format!("x {word} y")).len(),
            1,
            "{word}"
        );
    }
    assert_eq!(found(unfinished, "src/lib.rs", "let unused = todos;"), []);
}

#[test]
fn a_page_says_what_the_module_refuses_to_know() {
    let page = "//! Bytes.\n//!\n//! Refuses to\n//! know: all else.\n\nuse x;";
    assert_eq!(found(pages, "src/ring/mod.rs", page), []);
    assert_eq!(found(pages, "src/ring/mod.rs", "//! Bytes.\n").len(), 1);
    assert_eq!(found(pages, "src/ring/send.rs", "//! Bytes.\n"), []);
    assert_eq!(found(pages, "src/ring/send.rs", "use x;\n").len(), 1);
    assert_eq!(found(pages, "src/client.rs", "//! Dials.\n").len(), 1);
}

#[test]
fn the_load_generator_keeps_to_the_public_api() {
    let text = "use ringwire::{\n    Conn,\n    conn::counts::Snapshot,\n};\nringwire::ring::f();";
    let lines: Vec<usize> = found(hidden_modules, "loadgen/src/run.rs", text)
        .iter()
        .map(|(line, _)| *line)
        .collect();
    assert_eq!(lines, [3, 5]);
    assert_eq!(found(hidden_modules, "tests/sim/main.rs", text), []);
}

#[test]
fn dead_files_are_found() {
    let source = Source::new;
    let sources = [
        source("src/lib.rs", "pub mod a;\n// mod dead;\nmod tests { }"),
        source("src/a/mod.rs", "mod b;\n#[cfg(test)]\nmod tests;"),
        source("src/a/b.rs", "mod c;"),
        source("src/a/b/c.rs", ""),
        source("src/a/tests.rs", ""),
        source("src/dead.rs", ""),
        source("src/a/dead.rs", ""),
        source(
            "tests/t/main.rs",
            "mod x;\n#[path = \"../common/mod.rs\"]\nmod common;",
        ),
        source("tests/t/x.rs", ""),
        source("tests/common/mod.rs", ""),
    ];
    let dead = dead_files(&sources, &["src/lib.rs", "tests/t/main.rs"]);
    let dead: Vec<&str> = dead.iter().map(|finding| finding.file.as_str()).collect();
    assert_eq!(dead, ["src/dead.rs", "src/a/dead.rs"]);
}

#[test]
fn a_bench_lives_only_when_the_manifest_names_it() {
    let manifest = "[[bench]]\nname = \"a\"\npath = \"benches/x/a.rs\"\n\n[dependencies]\n\
                    b = { path = \"b\" }\n";
    assert_eq!(declared(manifest), ["benches/x/a.rs"]);
    let sources = [
        Source::new("benches/x/a.rs", "mod run;"),
        Source::new("benches/x/run.rs", ""),
        Source::new("benches/b.rs", ""),
    ];
    let dead = dead_files(&sources, &roots(&sources, &declared(manifest)));
    let dead: Vec<&str> = dead.iter().map(|finding| finding.file.as_str()).collect();
    assert_eq!(dead, ["benches/b.rs"]);
}
