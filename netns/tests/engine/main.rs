//! The engine with plugins that are scripts: what they are told, and what becomes of what they answer. Needs no root.

#![allow(clippy::unwrap_used)]

mod program;
mod scene;

use std::fs;

use netns::cni::cache::Attachment;
use netns::cni::conflist::NetworkList;
use netns::cni::engine;
use netns::cni::fault::Code;
use serde_json::{Map, Value, json};

use scene::{ANSWER, Scene, attachment, list};

#[test]
fn add_goes_forward_with_results_and_delete_backward_with_the_last() {
    let scene = Scene::new("order");
    scene.plugin("first", ANSWER);
    scene.plugin("second", r#"echo '{"ips":[{"address":"10.0.0.3/24"}]}'"#);
    let list =
        list("1.0.0", json!([{"type":"first","x":1,"capabilities":{"ports":true,"other":false}},{"type":"second"}]));
    let result = scene.engine.add(&list, &attachment()).unwrap();
    assert_eq!(result, json!({"cniVersion":"1.0.0","ips":[{"address":"10.0.0.3/24"}]}));
    scene.engine.check(&list, &attachment()).unwrap();
    scene.engine.delete(&list, &attachment()).unwrap();
    assert_eq!(scene.calls(), ["first-ADD", "second-ADD", "first-CHECK", "second-CHECK", "second-DEL", "first-DEL"]);
    let told = json!({"name":"net","cniVersion":"1.0.0","type":"first","x":1,
        "capabilities":{"ports":true,"other":false},"runtimeConfig":{"ports":[1]}});
    assert_eq!(scene.input(0), told);
    assert_eq!(scene.input(1)["prevResult"]["ips"][0]["address"], "10.0.0.2/24");
    assert_eq!(scene.input(1).get("runtimeConfig"), None);
    for call in 2..6 {
        assert_eq!(scene.input(call)["prevResult"], result, "call {call}");
    }
    let environment = fs::read_to_string(scene.directory.join("env-first")).unwrap();
    let path = scene.engine.bin_dirs.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    let expected = format!(
        "CNI_ARGS=IgnoreUnknown=1;K=v\nCNI_COMMAND=DEL\nCNI_CONTAINERID=pod\nCNI_IFNAME=eth0\nCNI_NETNS=/run/netns/pod\n\
         CNI_PATH={path}\n"
    );
    assert_eq!(environment, expected);
    assert_eq!(scene.cached(), 0);
}

#[test]
fn delete_remembers_what_its_caller_does_not_say() {
    let scene = Scene::new("remembers");
    scene.plugin("first", ANSWER);
    let list = list("0.4.0", json!([{"type":"first","capabilities":{"ports":true}}]));
    scene.engine.add(&list, &attachment()).unwrap();
    let bare = Attachment { args: Vec::new(), capability_args: Map::new(), ..attachment() };
    scene.engine.delete(&list, &bare).unwrap();
    assert_eq!(scene.input(1)["runtimeConfig"], json!({"ports":[1]}));
    assert_eq!(scene.input(1)["prevResult"]["cniVersion"], "0.4.0");
    let environment = fs::read_to_string(scene.directory.join("env-first")).unwrap();
    assert!(environment.contains("CNI_ARGS=IgnoreUnknown=1;K=v\n"));
}

#[test]
fn old_versions_have_no_previous_result_at_delete_and_no_check() {
    let scene = Scene::new("old");
    scene.plugin("first", r#"echo '{"ip4":{"ip":"10.0.0.2/24"}}'"#);
    let list = list("0.2.0", json!([{"type":"first"}]));
    let result = scene.engine.add(&list, &attachment()).unwrap();
    assert_eq!(result, json!({"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"},"dns":{}}));
    let error = scene.engine.check(&list, &attachment()).unwrap_err();
    assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
    scene.engine.delete(&list, &attachment()).unwrap();
    assert_eq!(scene.input(1).get("prevResult"), None);
    scene.engine.status(&list).unwrap();
    assert_eq!(scene.calls(), ["first-ADD", "first-DEL"]);
}

#[test]
fn a_failed_add_says_the_plugins_own_words_and_stays_known() {
    let scene = Scene::new("fails");
    scene.plugin("first", ANSWER);
    scene.plugin(
        "second",
        r#"[ $CNI_COMMAND != ADD ] || { echo '{"code":107,"msg":"no luck","details":"today"}'; exit 1; }"#,
    );
    scene.plugin("third", ANSWER);
    let list = list("1.0.0", json!([{"type":"first"},{"type":"second"},{"type":"third"}]));
    let error = scene.engine.add(&list, &attachment()).unwrap_err();
    assert_eq!(error.code, Code(107));
    assert_eq!(error.to_string(), "plugin type=\"second\" failed (add): no luck; today");
    assert_eq!(scene.calls(), ["first-ADD", "second-ADD"]);
    // Whoever crashes here is found by the collection of garbage.
    assert_eq!(scene.cached(), 1);
    scene.engine.gc(&list, &[("pod".to_owned(), "eth0".to_owned())]).unwrap();
    assert_eq!(scene.cached(), 1);
    scene.engine.gc(&list, &[]).unwrap();
    assert_eq!(scene.calls()[2..], ["third-DEL", "second-DEL", "first-DEL"]);
    assert_eq!(scene.cached(), 0);
}

#[test]
fn several_networks_are_all_or_none() {
    let scene = Scene::new("several");
    scene.plugin("good", ANSWER);
    scene.plugin("bad", r#"[ $CNI_COMMAND != ADD ] || { echo broken >&2; exit 3; }"#);
    let conf = scene.directory.join("conf");
    fs::create_dir(&conf).unwrap();
    fs::write(conf.join("1.conflist"), r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"good"}]}"#).unwrap();
    fs::write(conf.join("2.conf"), r#"{"name":"b","cniVersion":"1.0.0","type":"good"}"#).unwrap();
    let networks = engine::networks(&conf, 0, &attachment()).unwrap();
    assert_eq!(scene.engine.attach(&networks).unwrap().len(), 2);
    let interfaces: Vec<_> = scene.engine.attachments().into_iter().map(|cached| cached.attachment.if_name).collect();
    assert_eq!(interfaces, ["eth0", "eth1"]);
    scene.engine.detach(&networks).unwrap();
    fs::write(conf.join("3.conf"), r#"{"name":"c","cniVersion":"1.0.0","type":"bad"}"#).unwrap();
    let networks = engine::networks(&conf, 0, &attachment()).unwrap();
    let error = scene.engine.attach(&networks).unwrap_err().to_string();
    assert_eq!(error, "plugin type=\"bad\" failed (add): netplugin failed: \"broken\\n\": exit status: 3");
    assert_eq!(scene.calls()[4..], ["good-ADD", "good-ADD", "bad-ADD", "bad-DEL", "good-DEL", "good-DEL"]);
    assert_eq!(scene.cached(), 0);
}

#[test]
fn garbage_is_collected_with_the_attachments_that_are_valid() {
    let scene = Scene::new("gc");
    scene.plugin("first", ANSWER);
    let list = list("1.1.0", json!([{"type":"first"}]));
    for id in ["a", "b"] {
        scene.engine.add(&list, &Attachment { container_id: id.to_owned(), ..attachment() }).unwrap();
    }
    scene.engine.gc(&list, &[("b".to_owned(), "eth0".to_owned())]).unwrap();
    assert_eq!(scene.calls()[2..], ["first-DEL", "first-GC"]);
    assert_eq!(scene.input(3)["cni.dev/valid-attachments"], json!([{"containerID":"b","ifname":"eth0"}]));
    assert_eq!(scene.cached(), 1);
}

#[test]
fn what_a_native_plugin_cannot_is_the_binarys_from_add_to_delete() {
    let mut scene = Scene::new("beyond");
    scene.engine.native = true;
    scene.plugin("bandwidth", ANSWER);
    let list = list("1.0.0", json!([{"type":"bandwidth","shapedSubnets":["10.0.0.0/8"]}]));
    scene.engine.add(&list, &attachment()).unwrap();
    scene.engine.delete(&list, &attachment()).unwrap();
    assert_eq!(scene.calls(), ["bandwidth-ADD", "bandwidth-DEL"]);
    fs::remove_file(scene.directory.join("bin/bandwidth")).unwrap();
    let error = scene.engine.add(&list, &attachment()).unwrap_err();
    assert_eq!(error.code, Code::UNSUPPORTED_FIELD);
}

#[test]
fn a_delete_stops_at_the_first_error_and_can_be_tried_again() {
    let scene = Scene::new("stops");
    scene.plugin("first", ANSWER);
    scene.plugin("second", &format!("[ $CNI_COMMAND = ADD ] && {ANSWER} || [ -e {}/fine ]", scene.directory.display()));
    let list = list("1.0.0", json!([{"type":"first"},{"type":"second"}]));
    scene.engine.add(&list, &attachment()).unwrap();
    let error = scene.engine.delete(&list, &attachment()).unwrap_err().to_string();
    assert!(error.starts_with("plugin type=\"second\" failed (delete): "), "{error}");
    assert_eq!((scene.calls().len(), scene.cached()), (3, 1));
    fs::write(scene.directory.join("fine"), "").unwrap();
    scene.engine.delete(&list, &attachment()).unwrap();
    assert_eq!(scene.calls()[3..], ["second-DEL", "first-DEL"]);
    assert_eq!(scene.cached(), 0);
}

#[test]
fn what_the_cache_has_of_old_or_broken_is_no_obstacle() {
    let scene = Scene::new("cache");
    scene.plugin("first", ANSWER);
    let list = list("1.0.0", json!([{"type":"first"}]));
    let file = scene.directory.join("cache/results/net-pod-eth0");
    for (text, previous) in [
        (r#"{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24"}],"dns":{}}"#, json!("10.0.0.2/24")),
        ("{", Value::Null),
        (r#"{"cniVersion":"9.0.0"}"#, Value::Null),
    ] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        scene.engine.delete(&list, &attachment()).unwrap();
        assert_eq!(scene.input(scene.calls().len() - 1)["prevResult"]["ips"][0]["address"], previous, "{text}");
        assert!(!file.exists(), "{text}");
    }
}

#[test]
fn words_turn_check_and_collection_off() {
    let scene = Scene::new("words");
    scene.plugin("first", ANSWER);
    let text =
        r#"{"Name":"net","CNIVersion":"1.1.0","disableCheck":"True","DisableGC":"true","plugins":[{"Type":"first"}]}"#;
    let list = NetworkList::from_bytes(text.as_bytes()).unwrap();
    scene.engine.add(&list, &attachment()).unwrap();
    scene.engine.check(&list, &attachment()).unwrap();
    scene.engine.gc(&list, &[]).unwrap();
    assert_eq!(scene.calls(), ["first-ADD"]);
    assert_eq!(scene.cached(), 1);
}

#[test]
fn collection_and_status_are_told_of_no_attachment() {
    let scene = Scene::new("nobody");
    scene.plugin("first", "true");
    let list = list("1.1.0", json!([{"type":"first","capabilities":{"ports":true}}]));
    scene.engine.status(&list).unwrap();
    let environment = fs::read_to_string(scene.directory.join("env-first")).unwrap();
    for empty in ["CNI_ARGS=\n", "CNI_CONTAINERID=\n", "CNI_IFNAME=\n", "CNI_NETNS=\n"] {
        assert!(environment.contains(empty), "{environment}");
    }
    scene.engine.gc(&list, &[]).unwrap();
    for (call, more) in [(0, 0), (1, 2)] {
        let told = scene.input(call);
        assert_eq!(told.as_object().unwrap().len(), 4 + more, "{told}");
        assert!(told.get("runtimeConfig").is_none() && told.get("prevResult").is_none(), "{told}");
    }
    assert_eq!(scene.input(1)["cni.dev/attachments"], json!([]));
}

#[test]
fn nothing_is_a_result_and_is_in_the_networks_version() {
    let scene = Scene::new("null");
    scene.plugin("first", "echo null");
    let result = scene.engine.add(&list("0.4.0", json!([{"type":"first"}])), &attachment()).unwrap();
    assert_eq!(result, json!({"cniVersion":"0.4.0","dns":{}}));
}

#[test]
fn a_second_add_that_is_refused_leaves_the_first_as_it_is() {
    let scene = Scene::new("second");
    let mark = scene.directory.join("mark");
    scene.plugin("first", &format!("[ -e {0} ] && exit 1; touch {0}; {ANSWER}", mark.display()));
    let list = list("1.0.0", json!([{"type":"first"}]));
    let result = scene.engine.add(&list, &attachment()).unwrap();
    scene.engine.add(&list, &attachment()).unwrap_err();
    assert_eq!(scene.engine.attachments()[0].result, Some(result));
    scene.engine.add(&list, &attachment()).unwrap_err();
    assert_eq!(scene.calls(), ["first-ADD", "first-ADD", "first-ADD"]);
}
