//! Network configurations: files, their order, and what must hold of them. The order and the strictness are libcni's
//! (`libcni/conf.go`) and, for [`NetworkList::load_first`], go-cni's, so that one directory means the same to all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::fault::{Code, Fault};
use super::json::Fields;
use super::version::Version;

/// A network: the plugins that make it, in order.
#[derive(Debug, Clone)]
pub struct NetworkList {
    /// Its name.
    pub name: String,
    /// The version that its plugins are spoken to in, as it was written.
    pub version: String,
    /// CHECK does nothing.
    pub disable_check: bool,
    /// GC does nothing.
    pub disable_gc: bool,
    /// At least one.
    pub plugins: Vec<Plugin>,
    /// What it was loaded from, for the cache.
    pub bytes: Vec<u8>,
}

/// One plugin of a network.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The name of its binary.
    pub kind: String,
    /// Its object in the configuration.
    pub config: Map<String, Value>,
}

fn config(message: impl Into<String>) -> Fault {
    Fault::new(Code::CONFIG, message)
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    serde_json::from_slice(bytes)
        .map_err(|error| Fault::new(Code::DECODE, format!("error parsing configuration: {error}")))
}

impl Plugin {
    fn parse(config: Map<String, Value>) -> Result<Self, Fault> {
        let kind = Fields(&config).string("type")?;
        let missing = || self::config("error parsing configuration: missing 'type'");
        Ok(Self { kind: kind.ok_or_else(missing)?, config })
    }
}

impl NetworkList {
    /// A list (`plugins`) from its bytes. Plugins in a directory beside the file are not looked for.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        let (list, _) = Self::parse(bytes)?;
        list.with_plugins()
    }

    /// A single plugin's configuration, as `.conf` and `.json` files hold it.
    pub fn from_plugin_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        let plugin = Plugin::parse(object(bytes)?)?;
        let fields = Fields(&plugin.config);
        let name = fields.string("name")?;
        let version = fields.string("cniVersion")?;
        let mut list = json!({ "name": name.clone().unwrap_or_default(), "plugins": [plugin.config] });
        if let (Some(list), Some(version)) = (list.as_object_mut(), &version) {
            list.insert("cniVersion".to_owned(), version.as_str().into());
        }
        Self::from_bytes(list.to_string().as_bytes())
    }

    /// A file: a list where its name ends in `.conflist`, else a single plugin. For a list, the plugins in the
    /// directory of the network's name beside the file come after its own, unless it says otherwise.
    pub fn from_file(path: &Path) -> Result<Self, Fault> {
        let named = |fault: Fault| Fault { message: format!("{}: {}", path.display(), fault.message), ..fault };
        let bytes = fs::read(path).map_err(|error| Fault::io(format!("read {}", path.display()), &error))?;
        if path.extension().is_none_or(|extension| extension != "conflist") {
            return Self::from_plugin_bytes(&bytes).map_err(named);
        }
        let (mut list, only_inlined) = Self::parse(&bytes).map_err(named)?;
        if !only_inlined {
            let directory = path.with_file_name(&list.name);
            for file in files(&directory, &["conf"])? {
                let bytes = fs::read(&file).map_err(|error| Fault::io(format!("read {}", file.display()), &error))?;
                list.plugins.push(
                    object(&bytes).and_then(Plugin::parse).map_err(|fault| Fault {
                        message: format!("{}: {}", file.display(), fault.message),
                        ..fault
                    })?,
                );
            }
        }
        list.with_plugins().map_err(named)
    }

    /// The network of that name in a directory: lists first, then single plugins, each by file name. A file that
    /// cannot be read or understood ends the search, as with libcni.
    pub fn load(directory: &Path, name: &str) -> Result<Self, Fault> {
        for extensions in [&["conflist"][..], &["conf", "json"]] {
            for file in files(directory, extensions)? {
                let list = Self::from_file(&file)?;
                if list.name == name {
                    return Ok(list);
                }
            }
        }
        Err(config(format!("no net configuration with name {name:?} in {}", directory.display())))
    }

    /// The first so many networks of a directory by file name; 0: all. One bad file among them fails the load.
    pub fn load_first(directory: &Path, most: usize) -> Result<Vec<Self>, Fault> {
        let files = files(directory, &["conf", "conflist", "json"])?;
        let most = if most == 0 { files.len() } else { most };
        let lists: Vec<_> = files.iter().take(most).map(|file| Self::from_file(file)).collect::<Result<_, _>>()?;
        if lists.is_empty() {
            return Err(config(format!("no network config found in {}", directory.display())));
        }
        Ok(lists)
    }

    /// The list with all of its plugins, those from beside its file too.
    pub fn to_json(&self) -> Value {
        let plugins: Vec<_> = self.plugins.iter().map(|plugin| Value::Object(plugin.config.clone())).collect();
        let mut list = json!({
            "name": self.name,
            "disableCheck": self.disable_check,
            "disableGC": self.disable_gc,
            "plugins": plugins,
        });
        if let Some(list) = list.as_object_mut().filter(|_| !self.version.is_empty()) {
            list.insert("cniVersion".to_owned(), self.version.as_str().into());
        }
        list
    }

    fn parse(bytes: &[u8]) -> Result<(Self, bool), Fault> {
        let object = object(bytes)?;
        let fields = Fields(&object);
        let name = fields.string("name")?.ok_or_else(|| config("error parsing configuration list: no name"))?;
        let only_inlined = fields.boolean_or_word("loadOnlyInlinedPlugins")?;
        let mut plugins = Vec::new();
        match fields.get("plugins") {
            None if only_inlined => {
                return Err(config("`loadOnlyInlinedPlugins` is true, and there is no `plugins` key"));
            }
            None => {}
            Some(Value::Array(list)) if list.is_empty() => {
                return Err(config("error parsing configuration list: no plugins in list"));
            }
            Some(_) => {
                for (at, plugin) in fields.objects("plugins")?.into_iter().enumerate() {
                    plugins.push(Plugin::parse(plugin.0.clone()).map_err(|fault| Fault {
                        message: format!("failed to parse plugin config {at}: {}", fault.message),
                        ..fault
                    })?);
                }
            }
        }
        let list = Self {
            name,
            version: newest_version(fields)?,
            disable_check: fields.boolean_or_word("disableCheck")?,
            disable_gc: fields.boolean_or_word("disableGC")?,
            plugins,
            bytes: bytes.to_vec(),
        };
        Ok((list, only_inlined))
    }

    fn with_plugins(self) -> Result<Self, Fault> {
        if self.plugins.is_empty() {
            return Err(config("no plugin configs found"));
        }
        Ok(self)
    }
}

/// The highest of `cniVersion` and those of `cniVersions` that we speak.
fn newest_version(fields: Fields<'_>) -> Result<String, Fault> {
    let mut newest = fields.string("cniVersion")?.unwrap_or_default();
    let mut highest = if newest.is_empty() { None } else { Some(Version::parse(&newest)?) };
    for version in fields.strings("cniVersions")? {
        let parsed = Version::parse(&version)?;
        if parsed <= Version::NEWEST && highest.is_none_or(|highest| parsed > highest) {
            (newest, highest) = (version, Some(parsed));
        }
    }
    Ok(newest)
}

/// The files of a directory with one of these extensions, by name. A directory that is not there is empty.
fn files(directory: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, Fault> {
    let failed = |error: io::Error| Fault::io(format!("read {}", directory.display()), &error);
    let entries = match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let wanted = path.extension().is_some_and(|extension| extensions.iter().any(|one| extension == *one));
        if wanted && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<NetworkList, Fault> {
        NetworkList::from_bytes(text.as_bytes())
    }

    #[test]
    fn the_newest_version_that_we_speak_wins() {
        let version =
            |versions: &str| list(&format!(r#"{{"name":"n",{versions},"plugins":[{{"type":"t"}}]}}"#)).unwrap().version;
        assert_eq!(version(r#""cniVersion":"0.4.0","cniVersions":["1.0.0","0.3.1","9.0.0"]"#), "1.0.0");
        assert_eq!(version(r#""cniVersion":"1.1.0","cniVersions":["1.0.0"]"#), "1.1.0");
        assert_eq!(version(r#""disableCheck":"TRUE""#), "");
    }

    #[test]
    fn bad_configurations_say_why() {
        for (text, why) in [
            ("[]", "error parsing configuration"),
            ("{", "error parsing configuration"),
            ("{}", "no name"),
            (r#"{"name":7}"#, "no string"),
            (r#"{"name":"n"}"#, "no plugin configs found"),
            (r#"{"name":"n","plugins":[]}"#, "no plugins in list"),
            (r#"{"name":"n","plugins":{}}"#, "no list"),
            (r#"{"name":"n","plugins":[{}]}"#, "missing 'type'"),
            (r#"{"name":"n","cniVersions":["x"],"plugins":[{"type":"t"}]}"#, "invalid version"),
            (r#"{"name":"n","cniVersions":"1.0.0","plugins":[{"type":"t"}]}"#, "no list"),
            (r#"{"name":"n","cniVersion":"1.2.3.4","plugins":[{"type":"t"}]}"#, "invalid version"),
            (r#"{"name":"n","disableCheck":"perhaps","plugins":[{"type":"t"}]}"#, "disableCheck"),
            (r#"{"name":"n","loadOnlyInlinedPlugins":true}"#, "loadOnlyInlinedPlugins"),
        ] {
            let error = list(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-conflist-{test}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) {
            fs::create_dir_all(self.0.join(name).parent().unwrap()).unwrap();
            fs::write(self.0.join(name), text).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_are_taken_in_order_of_their_names_and_lists_before_single_plugins() {
        let scratch = Scratch::new("order");
        scratch.write("10-a.conf", r#"{"name":"x","type":"single"}"#);
        scratch.write("20-b.conflist", r#"{"name":"x","plugins":[{"type":"list"}]}"#);
        scratch.write("00-no.txt", "{");
        assert_eq!(NetworkList::load(&scratch.0, "x").unwrap().plugins[0].kind, "list");
        assert_eq!(NetworkList::load_first(&scratch.0, 1).unwrap()[0].plugins[0].kind, "single");
        assert_eq!(NetworkList::load_first(&scratch.0, 0).unwrap().len(), 2);
        // A list under a single plugin's name is none.
        scratch.write("list.json", r#"{"name":"l","plugins":[{"type":"t"}]}"#);
        assert!(
            NetworkList::from_file(&scratch.0.join("list.json")).unwrap_err().to_string().contains("missing 'type'")
        );
        fs::remove_file(scratch.0.join("list.json")).unwrap();
        scratch.write("30-bad.conflist", "{");
        assert!(NetworkList::load(&scratch.0, "x").is_ok());
        let error = NetworkList::load_first(&scratch.0, 0).unwrap_err().to_string();
        assert!(error.contains("30-bad.conflist"), "{error}");
        scratch.write("15-bad.conflist", "{");
        assert!(NetworkList::load(&scratch.0, "x").is_err());
    }

    #[test]
    fn plugins_beside_the_file_come_after_its_own() {
        let scratch = Scratch::new("beside");
        scratch.write("n.conflist", r#"{"name":"net","plugins":[{"type":"a"}]}"#);
        scratch.write("net/2.conf", r#"{"type":"c"}"#);
        scratch.write("net/1.conf", r#"{"type":"b"}"#);
        let kinds = |file: &str| -> Vec<String> {
            let list = NetworkList::from_file(&scratch.0.join(file)).unwrap();
            list.plugins.into_iter().map(|plugin| plugin.kind).collect()
        };
        assert_eq!(kinds("n.conflist"), ["a", "b", "c"]);
        let bytes = fs::read(scratch.0.join("n.conflist")).unwrap();
        assert_eq!(NetworkList::from_bytes(&bytes).unwrap().plugins.len(), 1);
        scratch.write("o.conflist", r#"{"name":"net","loadOnlyInlinedPlugins":true,"plugins":[{"type":"a"}]}"#);
        assert_eq!(kinds("o.conflist"), ["a"]);
        scratch.write("p.conflist", r#"{"name":"net"}"#);
        assert_eq!(kinds("p.conflist"), ["b", "c"]);
    }

    #[test]
    fn a_directory_that_is_not_there_has_no_networks() {
        let error = NetworkList::load_first(Path::new("/nonexistent"), 1).unwrap_err().to_string();
        assert_eq!(error, "no network config found in /nonexistent");
    }
}
