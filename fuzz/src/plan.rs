//! config.json and process.json: an error of one line or a plan that holds together, and the same one every time.

use std::sync::OnceLock;

use runtime_core::cgroup::CgroupPath;
use runtime_core::plan::{Error, InitPlan};
use runtime_core::spec;
use runtime_core::step::{MountStep, Step};
use serde_json::Value;

use crate::choices::Choices;
use support::{compile, host, minimal, mutate};

/// How runtime-core's own tests spoil specs.
#[path = "../../runtime-core/tests/plan/support.rs"]
#[allow(dead_code)]
pub mod support;

const HOSTS: [&str; 4] = ["v1", "v2", "lsm", "old"];

/// config.json: the bytes themselves, or a spec of the golden tests spoiled by them.
pub fn config(data: &[u8]) {
    let Some((value, json)) = spoiled(data, |_| true) else { return };
    let Some(spec) = parsed(spec::parse(&json)) else { return };
    if let Err(error) =
        CgroupPath::parse(spec.linux().as_ref().and_then(|l| l.cgroups_path().as_deref()?.to_str()), "box")
    {
        one_line(&error.to_string());
    }
    for name in HOSTS {
        check(|| compile(&spec, &value["test"], &host(name)));
    }
}

/// process.json of an exec, likewise, in a container that is right.
pub fn process(data: &[u8]) {
    let Some((value, _)) = spoiled(data, |spec| spec["test"]["exec"].is_object() || spec["process"].is_object()) else {
        return;
    };
    let exec = if value["test"]["exec"].is_object() { &value["test"]["exec"] } else { &value["process"] };
    let text = exec.to_string();
    let Some(process) = parsed(spec::parse_process(text.as_bytes())) else { return };
    let mut container = minimal();
    if data.len().is_multiple_of(2) {
        let mapping = serde_json::json!([{ "containerID": 0, "hostID": 1, "size": 65536 }]);
        let user = serde_json::json!({ "linux": { "uidMappings": mapping, "gidMappings": mapping } });
        support::merge(&mut container, &user);
        container["linux"]["namespaces"].as_array_mut().unwrap().push(serde_json::json!({ "type": "user" }));
    }
    let container = spec::parse(container.to_string().as_bytes()).unwrap();
    let test = serde_json::json!({ "exec": process });
    for name in HOSTS {
        check(|| compile(&container, &test, &host(name)));
    }
}

/// What becomes of one mount in a container that is right.
pub fn with_mount(mount: Value) -> Result<MountStep, Error> {
    let mut value = minimal();
    support::merge(&mut value, &serde_json::json!({ "mounts": [mount] }));
    let spec = spec::parse(value.to_string().as_bytes()).unwrap();
    let plan = compile(&spec, &Value::Null, &host("v2"))?;
    let mount = plan.steps.into_iter().find_map(|step| match step {
        Step::Mount(mount) => Some(*mount),
        _ => None,
    });
    Ok(mount.unwrap())
}

fn seeds() -> &'static [Value] {
    static SEEDS: OnceLock<Vec<Value>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime-core/tests/plan");
        let mut paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        paths.iter().map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect()
    })
}

/// What stands in the golden files beside specs may be spoiled too. `None` for bytes that are no JSON at all: those are
/// only parsed.
fn spoiled(data: &[u8], wanted: impl Fn(&Value) -> bool) -> Option<(Value, Vec<u8>)> {
    let mut choices = Choices::new(data);
    if data.first() == Some(&b'{') {
        parsed(spec::parse_process(data));
        let Some(value) = parsed(serde_json::from_slice::<Value>(data)) else {
            parsed(spec::parse(data));
            return None;
        };
        return Some((value, data.to_owned()));
    }
    let mut value = seeds()[choices.below(seeds().len())].clone();
    if !wanted(&value) {
        return None;
    }
    for _ in 0..=choices.below(4) {
        mutate(&mut value, &mut |below| choices.below(below));
    }
    let json = value.to_string().into_bytes();
    Some((value, json))
}

fn parsed<T>(result: Result<T, serde_json::Error>) -> Option<T> {
    // serde_json quotes a wrong word as it stands, so its text may have any number of lines.
    result.inspect_err(|error| assert!(!error.to_string().is_empty())).ok()
}

pub fn one_line(error: &str) {
    assert!(!error.is_empty() && !error.contains(['\n', '\0']), "not one line: {error:?}");
}

fn check(compile: impl Fn() -> Result<InitPlan, Error>) {
    let plan = match compile() {
        Ok(plan) => plan,
        Err(error) => return one_line(&error.to_string()),
    };
    assert_eq!(compile().ok().as_ref(), Some(&plan), "the same spec gives another plan");
    let printed = plan.to_string();
    assert!(!printed.contains('\0') && printed.lines().count() > plan.steps.len(), "{printed}");
    plan.warnings.iter().for_each(|warning| one_line(warning));
    whole(&plan);
    ordered(&plan);
    assert!(plan.program.args.iter().count() >= 1, "a program without a name");
}

/// Nothing names what is not there.
fn whole(plan: &InitPlan) {
    for step in &plan.steps {
        assert!(step.source().is_none_or(|source| source.0 < plan.sources.len()), "{step:?}");
        if let Step::Readonly(slot) = step {
            assert!(slot.0 < plan.slots, "{step:?}");
        }
    }
}

/// The order that the security of every container rests upon (ARCHITECTURE.md, "The order of the steps").
fn ordered(plan: &InitPlan) {
    let first = |wanted: fn(&Step) -> bool| plan.steps.iter().position(wanted);
    let last = |wanted: fn(&Step) -> bool| plan.steps.iter().rposition(wanted);
    let before = |earlier: Option<usize>, later: Option<usize>, what: &str| {
        assert!(earlier.zip(later).is_none_or(|(earlier, later)| earlier < later), "{what}:\n{plan}");
    };
    assert_eq!(plan.steps.last(), Some(&Step::Exec), "{plan}");
    let gates = plan.steps.iter().filter(|step| matches!(step, Step::Gate { .. })).count();
    let pivots = plan.steps.iter().filter(|step| matches!(step, Step::EnterRoot(_))).count();
    assert!(gates <= 1 && pivots == gates, "{plan}");
    let pivot = first(|step| matches!(step, Step::EnterRoot(_)));
    let ids = first(|step| matches!(step, Step::Ids { .. }));
    assert!(ids.is_some() && first(|step| matches!(step, Step::Seccomp(_))) != Some(0), "{plan}");
    before(first(|step| matches!(step, Step::JoinCgroup)), ids, "the cgroup first");
    before(last(|step| matches!(step, Step::Mount(_) | Step::Device(_))), pivot, "mounts before the pivot");
    before(pivot, first(|step| matches!(step, Step::Mask { .. } | Step::ReadonlyPath(_))), "masks after the pivot");
    before(last(|step| matches!(step, Step::Mask { .. } | Step::ReadonlyPath(_) | Step::Sysctl { .. })), ids, "ids");
    before(pivot, ids, "the user after the pivot");
    before(first(|step| matches!(step, Step::BoundingSet(_))), ids, "the bounding set before the ids");
    before(ids, first(|step| matches!(step, Step::Capabilities(_))), "capabilities after the ids");
    before(last(|step| matches!(step, Step::VerifyCwd(_))), first(|step| matches!(step, Step::Seccomp(_))), "cwd");
    before(first(|step| matches!(step, Step::Chdir(_))), last(|step| matches!(step, Step::VerifyCwd(_))), "verified");
}
