#!/usr/bin/env python3
"""Renders the manifests below deploy/ and checks them against schemas, the program, and one another. Offline.

Takes the program as an argument (default: target/debug/wal-indexer). Kinds that Kubernetes does not define
(ServiceMonitor, PodMonitor, PrometheusRule) are checked against the schemas below, which allow only the fields that the
manifests use.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib

import jsonschema
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
KUBECTL = pathlib.Path(sys.executable).parent / "kubectl"
PROMTOOL = ROOT / "target/tools/promtool"
PROGRAM = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/debug/wal-indexer").resolve()

# The least ratio of memory limit to budget: workers take about half as much again beside their budget
# (docs/operations.md, "What a worker needs").
LIMIT_TO_BUDGET_MIN = 1.5

# The largest part of the limit that all budgets may be. The rest is for what they do not count: fetches and
# connections.
COUNTED_PART_MAX = 0.75


def thing(required, **properties):
    """Returns a schema for an object with these members and no others."""
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


STRING = {"type": "string", "minLength": 1}
DURATION = {"type": "string", "pattern": r"^[0-9]+(ms|s|m|h)$"}
STRINGS = {"type": "object", "additionalProperties": STRING}
SELECTOR = thing(["matchLabels"], matchLabels=STRINGS)
ENDPOINTS = {"type": "array", "minItems": 1, "items": thing(["port"], port=STRING, interval=DURATION)}
ANNOTATIONS = thing(["summary", "runbook_url"], summary=STRING, runbook_url=STRING)
LABELS = thing(["severity"], severity={"enum": ["warning", "critical"]})
ALERT = thing(["alert", "expr", "labels", "annotations"],
              alert={"type": "string", "pattern": "^WalIndexer[A-Za-z]+$"}, expr=STRING, labels=LABELS,
              annotations=ANNOTATIONS, **{"for": DURATION})
GROUP = thing(["name", "rules"], name=STRING, rules={"type": "array", "minItems": 1, "items": ALERT})
SPECS = {
    "ServiceMonitor": thing(["selector", "endpoints"], selector=SELECTOR, endpoints=ENDPOINTS),
    "PodMonitor": thing(["selector", "podMetricsEndpoints"], selector=SELECTOR, podMetricsEndpoints=ENDPOINTS,
                        namespaceSelector=thing(["any"], any={"const": True})),
    "PrometheusRule": thing(["groups"], groups={"type": "array", "minItems": 1, "items": GROUP}),
}

failures = []


def check(holds, what):
    if not holds:
        failures.append(what)


def render(directory):
    rendered = subprocess.run([KUBECTL, "kustomize", directory], capture_output=True, text=True)
    check(rendered.returncode == 0, f"{directory.relative_to(ROOT)}: {rendered.stderr.strip()}")
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]


def named(documents, kind, name=None):
    found = [one for one in documents if one["kind"] == kind and name in (None, one["metadata"]["name"])]
    return found[0] if found else None


def check_schema(place, document):
    kind = document["kind"]
    try:
        if document["apiVersion"] == "monitoring.coreos.com/v1":
            jsonschema.validate(document["spec"], SPECS[kind])
        else:
            kubernetes_validate.validate(document, "1.37", strict=True)
    except (kubernetes_validate.ValidationError, jsonschema.ValidationError, KeyError) as error:
        failures.append(f"{place}: {kind}: {error}")


def containers(documents):
    """Yields each container that runs this program, with its pod template and its document."""
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet", "CronJob"):
            spec = document["spec"]
            pod = spec["jobTemplate"]["spec"]["template"] if document["kind"] == "CronJob" else spec["template"]
            for container in pod["spec"]["containers"]:
                if container["image"].split(":")[0] == "wal-indexer":
                    yield document, pod, container


def values(container, documents):
    """Returns the container's variables, with those of generated config maps; None if there is no literal value."""
    told = {}
    for source in container.get("envFrom", []):
        config = named(documents, "ConfigMap", source.get("configMapRef", {}).get("name", "-"))
        told |= config["data"] if config else {}
    return told | {one["name"]: one.get("value") for one in container.get("env", [])}


def size(text):
    """Returns the bytes of `2Gi` (Kubernetes) or `1GiB` (the program)."""
    number, unit = re.fullmatch(r"(\d+)([KMG]i)B?", text).groups()
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30}[unit]


def variables(verb):
    """Returns the variables that a command reads, according to its help."""
    told = subprocess.run([PROGRAM, verb, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"env: (WAL_INDEXER_[A-Z_]+)", told))


def check_container(place, document, pod, container, documents):
    verb, told = container["args"][0], values(container, documents)
    known, ours = variables(verb), {name for name in told if name.startswith("WAL_INDEXER_")}
    check(ours <= known, f"{place}: `{verb}` reads no {sorted(ours - known)}")
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    check(container["image"] == f"wal-indexer:{version}", f"{place}: {container['image']} is not {version}")

    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    listens = {int(told[name].rsplit(":")[-1]) for name in told if name.endswith("LISTEN")}
    check(listens == set(ports.values()), f"{place}: listens on {listens}, names {ports}")

    # The level "restricted" of Kubernetes, and a read-only root file system.
    both = pod["spec"]["securityContext"] | container["securityContext"]
    check(both.get("runAsNonRoot") is True and both.get("runAsUser", 0) > 0, f"{place}: runs as root")
    check(both.get("readOnlyRootFilesystem") is True, f"{place}: its root can be written to")
    check(both.get("allowPrivilegeEscalation") is False, f"{place}: may get more rights")
    check(both.get("capabilities") == {"drop": ["ALL"]}, f"{place}: has capabilities")
    check(both.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{place}: may make any system call")
    check(pod["spec"]["automountServiceAccountToken"] is False, f"{place}: has a token for the cluster")

    if document["kind"] == "CronJob":
        return
    # A little more than the drain timeout: then the worker drops the remaining calls and sends them errors.
    drain, grace = int(told.get("WAL_INDEXER_DRAIN_TIMEOUT", 30)), pod["spec"]["terminationGracePeriodSeconds"]
    check(grace >= drain + 5, f"{place}: killed after {grace} s, with {drain} s to drain")


def of(documents, name):
    """Returns the pod template and the container of the workload with this name."""
    return next((pod, container) for document, pod, container in containers(documents) if document["metadata"]["name"] == name)


def check_worker(place, documents, name="wal-indexer", service="IndexerService"):
    pod, container = of(documents, name)
    told, resources = values(container, documents), container["resources"]
    check("WAL_INDEXER_STORE" in told, f"{place}: no store")
    roles = told.get("WAL_INDEXER_ROLES", "index,search").split(",")
    limit = size(resources["limits"]["memory"])
    check(resources["requests"]["memory"] == resources["limits"]["memory"], f"{place}: asks for less than it takes")
    counted = [size(told[f"WAL_INDEXER_{what}"]) for what in ("SEARCH_MEMORY", "SEARCH_CACHE")]
    if "index" in roles:
        budget = size(told["WAL_INDEXER_MEMORY_BUDGET"])
        check(limit >= LIMIT_TO_BUDGET_MIN * budget, f"{place}: a budget of {budget} in {limit}")
        counted.append(budget)
    check(sum(counted) <= COUNTED_PART_MAX * limit, f"{place}: {name} counts on {sum(counted)} of {limit} bytes")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    # With TLS, probes have their own port.
    port = ports.pop("health", ports["grpc"])
    check(container["startupProbe"]["grpc"] == {"port": port}, f"{place}: starts by another port than {port}")
    check(container["livenessProbe"]["grpc"] == {"port": port}, f"{place}: liveness is the service ``")
    readiness = container["readinessProbe"]["grpc"]
    proto = (ROOT / "proto/walindexer/v1/indexer.proto").read_text()
    package = re.search(r"package ([\w.]+);", proto)[1]
    check(readiness == {"port": port, "service": f"{package}.{service}"}, f"{place}: readiness asks {readiness}")

    mine = {"app.kubernetes.io/name": name}
    labels = pod["metadata"]["labels"]
    for kind, path in [("Deployment", ["selector", "matchLabels"]), ("Service", ["selector"]),
                       ("PodDisruptionBudget", ["selector", "matchLabels"]),
                       ("NetworkPolicy", ["podSelector", "matchLabels"])]:
        selected = named(documents, kind, name)["spec"]
        for part in path:
            selected = selected.get(part, {})
        check(selected == mine and mine.items() <= labels.items(), f"{place}: {kind} selects {selected}")
    called = named(documents, "Service", name)["spec"]
    check(called["clusterIP"] == "None", f"{place}: the service is not headless")
    check({port["targetPort"]: port["port"] for port in called["ports"]} == ports, f"{place}: the service's ports")
    policy = named(documents, "NetworkPolicy", name)["spec"]
    open_ports = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    check(open_ports == set(ports), f"{place}: the policy opens {open_ports}")
    claims = [one["persistentVolumeClaim"]["claimName"] for one in pod["spec"].get("volumes", [])
              if "persistentVolumeClaim" in one]
    for claim in claims:
        check(named(documents, "PersistentVolumeClaim", claim), f"{place}: no claim {claim}")
    mounts = [one["mountPath"] for one in container.get("volumeMounts", [])]
    if told["WAL_INDEXER_STORE"].startswith("file://"):
        # Below the mount, because the mount itself may contain lost+found.
        kept = any(told["WAL_INDEXER_STORE"].startswith(f"file://{path}/") for path in mounts)
        check(kept, f"{place}: the store is not on the volume")


def check_tls(place, documents, name):
    pod, container = of(documents, name)
    flags = dict(argument.split("=") for argument in container["args"][1:])
    help_text = subprocess.run([PROGRAM, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    wanted = {"--tls-cert", "--tls-key", "--tls-client-ca", "--tokens"}
    check(set(flags) == wanted and all(f"{flag} <" in help_text for flag in flags), f"{place}: {name} has {sorted(flags)}")
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
    for path in flags.values():
        mount = mounts.get(path.rsplit("/", 1)[0], {})
        # A file that is mounted with subPath does not change when its secret changes.
        check("subPath" not in mount and "secret" in volumes.get(mount.get("name"), {}), f"{place}: no secret at {path}")
    told = values(container, documents)
    check("WAL_INDEXER_HEALTH_LISTEN" in told, f"{place}: probes of {name} would have to speak TLS")
    clashes = {flag for flag in wanted if f"WAL_INDEXER_{flag[2:].upper().replace('-', '_')}" in told}
    check(not clashes, f"{place}: {clashes} would be read by callers, too")


def check_agent(place, documents, workers):
    document, pod, container = next(containers(documents))
    told = values(container, documents)
    policy = named(workers, "NetworkPolicy")["spec"]
    clients = policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    check(clients.items() <= pod["metadata"]["labels"].items(), f"{place}: the workers' policy keeps it out")
    monitor = named(workers, "PodMonitor")["spec"]
    check(monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items(), f"{place}: not scraped")
    ports = {port["name"] for port in container["ports"]}
    check({one["port"] for one in monitor["podMetricsEndpoints"]} <= ports, f"{place}: not scraped")
    service = named(workers, "Service")
    port = service["spec"]["ports"][0]["port"]
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    check(told["WAL_INDEXER_ENDPOINT"] == f"http://{host}:{port}", f"{place}: {told['WAL_INDEXER_ENDPOINT']}")
    mounts = [one["mountPath"] for one in container["volumeMounts"]]
    check(told["WAL_INDEXER_WAL_DIR"] in mounts, f"{place}: nothing is mounted at its WAL directory")


def check_autoscaler(place, documents, adapter, name="wal-indexer"):
    scaler = named(documents, "HorizontalPodAutoscaler", name)["spec"]
    target = named(documents, scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"])
    check(target and target["metadata"]["name"] == name, f"{place}: no target")
    check("replicas" not in target["spec"], f"{place}: two say how many there are")
    _, container = of(documents, name)
    served = {
        "Pods": [rule["seriesQuery"].split("{")[0] for rule in adapter["rules"]["custom"]],
        "External": [rule["seriesQuery"].split("{")[0] for rule in adapter["rules"]["external"]],
    }
    for metric in scaler["metrics"]:
        if metric["type"] == "Resource":
            # The target is a percentage of the request, so there must be a request.
            resource = metric["resource"]["name"]
            check(resource in container["resources"]["requests"], f"{place}: asks for no {resource}")
            continue
        name = metric[metric["type"].lower()]["metric"]["name"]
        check(name in served[metric["type"]], f"{place}: the adapter serves no {name}")


def check_search_workers(place, documents):
    check_worker(place, documents, "wal-indexer-search", "SearchService")
    (_, indexes), (pod, searches) = of(documents, "wal-indexer"), of(documents, "wal-indexer-search")
    roles = [values(one, documents).get("WAL_INDEXER_ROLES") for one in (indexes, searches)]
    check(roles == ["index", "search"], f"{place}: roles {roles}")
    secrets = [[source["secretRef"]["name"] for source in one["envFrom"] if "secretRef" in source]
               for one in (indexes, searches)]
    check(secrets[0] != secrets[1], f"{place}: searches have the credentials that can write")
    service = named(documents, "Service", "wal-indexer-search")
    monitor = named(documents, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    check(monitor.items() <= service["metadata"]["labels"].items(), f"{place}: searches are not scraped")
    for name in ("wal-indexer-scrub", "wal-indexer-purge"):
        check_job(place, documents, name)
    check_rights(place, documents)


def check_job(place, documents, name):
    job = named(documents, "CronJob", name)
    pod, container = of(documents, name)
    check("WAL_INDEXER_STORE" in values(container, documents), f"{place}: no store for {name}")
    policy = named(documents, "NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"]
    check(policy.items() <= pod["metadata"]["labels"].items(), f"{place}: the policy is not that of {name}")
    rules = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    named_there = [rule["onExitCodes"]["containerName"] for rule in rules]
    check(named_there == [container["name"]], f"{place}: exit codes of {named_there}")


def check_rights(place, documents):
    """Checks that only the purge deletes, with a secret and a service account that nothing else uses."""
    secrets, accounts = {}, {}
    for document, pod, container in containers(documents):
        name, verb = document["metadata"]["name"], container["args"][0]
        check((verb == "purge") == (name == "wal-indexer-purge"), f"{place}: {name} runs {verb}")
        check(verb not in ("expire", "undelete"), f"{place}: {name} runs {verb}")
        for source in container["envFrom"]:
            if "secretRef" in source:
                secrets.setdefault(source["secretRef"]["name"], []).append(name)
        accounts.setdefault(pod["spec"].get("serviceAccountName", "default"), []).append(name)
    check(secrets.get("wal-indexer-store-purge") == ["wal-indexer-purge"], f"{place}: secrets {secrets}")
    check(accounts.get("wal-indexer-purge") == ["wal-indexer-purge"], f"{place}: service accounts {accounts}")
    check(named(documents, "ServiceAccount", "wal-indexer-purge"), f"{place}: the purge has no service account")


def targets(directory):
    """Returns kind and name of the targets that cargo would build there and whose files exist; no tests or examples."""
    command = ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]
    told = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if told.returncode != 0:
        return {told.stderr}
    found = [(one["kind"][0], one["name"]) for one in json.loads(told.stdout)["packages"][0]["targets"]
             if pathlib.Path(one["src_path"]).exists()]
    return {one for one in found if one[0] not in ("test", "example")}


def check_dockerfile():
    """Checks that the image is what deploy/rootfs.sh makes and tests/image.sh tests, and that it can be built."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    starts = [n for n, (word, _) in enumerate(lines) if word == "FROM"]
    build, image = lines[:starts[1]], lines[starts[1]:]
    done = [(word, rest) for word, rest in image if word not in ("USER", "ENV", "EXPOSE", "ENTRYPOINT", "CMD")]
    check(done == [("FROM", "scratch"), ("COPY", "--from=build /rootfs /")], f"Dockerfile: the image is not /rootfs: {done}")
    runs = [rest for word, rest in build if word == "RUN"]
    check(len(runs) == 2 and runs[0].startswith("apt-get ") and runs[1] == "deploy/rootfs.sh /rootfs",
          f"Dockerfile: builds otherwise than deploy/rootfs.sh does: {runs}")
    program = json.loads(dict(image)["ENTRYPOINT"])[0]
    rootfs, tried = (DEPLOY / "rootfs.sh").read_text(), (ROOT / "tests/image.sh").read_text()
    check(f'"$dir{program}"' in rootfs and f" {program})" in tried, f"{program} is not what is installed and tried")
    check("deploy/rootfs.sh \"$root\"" in tried, "tests/image.sh: tries something else")
    copied = [rest.split() for word, rest in build if word == "COPY"]
    ignored = (ROOT / ".dockerignore").read_text().split()
    with tempfile.TemporaryDirectory() as directory:
        for *sources, target in copied:
            for source in sources:
                check(source.split("/")[0] not in ignored, f".dockerignore: leaves out {source}")
                to = pathlib.Path(directory, source if target == "./" else target)
                to.parent.mkdir(parents=True, exist_ok=True)
                to.symlink_to(ROOT / source)
        # Offline and without a build: checks that all files that Cargo.toml names are there.
        there, all_of_them = targets(directory), targets(ROOT)
        check(there == all_of_them, f"Dockerfile: does not copy {all_of_them - there}")
        read = re.findall(r"rerun-if-changed=([\w./-]+)", (ROOT / "build.rs").read_text())
        check(read and all(pathlib.Path(directory, path).exists() for path in read), f"Dockerfile: build.rs reads {read}")


def check_image(worker):
    check_dockerfile()
    lines = (ROOT / "Dockerfile").read_text()
    pod, container = worker
    user = f"{pod['spec']['securityContext']['runAsUser']}:{pod['spec']['securityContext']['runAsGroup']}"
    check(re.search(r"^USER (.*)$", lines, re.M)[1] == user, "Dockerfile: another user than the manifests'")
    check(f":{user}:" in (DEPLOY / "rootfs.sh").read_text(), "deploy/rootfs.sh: the user has no name")
    exposed = set(map(int, re.search(r"^EXPOSE (.*)$", lines, re.M)[1].split()))
    check(exposed == {port["containerPort"] for port in container["ports"]}, f"Dockerfile: exposes {exposed}")
    toolchain = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["rust-version"]
    check(f"FROM rust:{toolchain}-" in lines, f"Dockerfile: is not built with Rust {toolchain}")
    check(set(re.findall(r"WAL_INDEXER_[A-Z_]+", lines)) <= variables("serve"), "Dockerfile: sets what nobody reads")


def promtool(*arguments):
    run = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True)
    check(run.returncode == 0, f"promtool {' '.join(map(str, arguments[:2]))}: {run.stdout}{run.stderr}")


def check_rules(rules, dashboard):
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    tested = {one["alertname"] for test in yaml.safe_load((ROOT / "tests/rules.yaml").read_text())["tests"]
              for one in test["alert_rule_test"] if one["exp_alerts"]}
    entries = re.findall(r"^## (WalIndexer\w+)$", (ROOT / "docs/runbook.md").read_text(), re.M)
    names = [alert["alert"] for alert in alerts]
    check(sorted(entries) == sorted(names), f"docs/runbook.md: {set(entries) ^ set(names)}")
    check(tested == set(names), f"tests/rules.yaml: {tested ^ set(names)}")
    for alert in alerts:
        check(alert["annotations"]["runbook_url"].endswith(f"/docs/runbook.md#{alert['alert'].lower()}"), alert["alert"])
    with tempfile.TemporaryDirectory() as directory:
        whole = pathlib.Path(directory, "rules.yaml")
        whole.write_text(yaml.safe_dump(rules))
        promtool("check", "rules", whole)
        # Otherwise the tests would have to repeat the texts.
        for alert in alerts:
            del alert["annotations"]
        pathlib.Path(directory, "wal-indexer.rules.yaml").write_text(yaml.safe_dump(rules))
        tests = pathlib.Path(directory, "tests.yaml")
        tests.write_text((ROOT / "tests/rules.yaml").read_text())
        promtool("test", "rules", tests)
        # The dashboard's queries are checked as rules.
        panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
        asked = [target["expr"] for panel in panels for target in panel["targets"]]
        asked = [re.sub(r"\$__rate_interval", "5m", expr).replace("$namespace", ".*") for expr in asked]
        records = [{"record": f"asked:{n}", "expr": expr} for n, expr in enumerate(asked)]
        whole.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": records}]}))
        promtool("check", "rules", whole)


def check_dashboard(dashboard):
    ids = [panel["id"] for panel in dashboard["panels"]]
    check(len(ids) == len(set(ids)), "the dashboard: two panels have one id")
    taken = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        check(not cells & taken and at["x"] + at["w"] <= 24, f"the dashboard: {panel['title']} lies over another panel")
        taken |= cells
        check(panel["type"] == "row" or panel["targets"], f"the dashboard: {panel['title']} asks nothing")
    known = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval", "__all"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard)))
    check(used <= known, f"the dashboard: {used - known}")


def main():
    overlays = {path.name: render(path) for path in sorted((DEPLOY / "overlays").iterdir())}
    check(set(overlays) == {"broker", "local-disk", "s3"}, f"overlays: {sorted(overlays)}")
    adapter = yaml.safe_load((DEPLOY / "monitoring/prometheus-adapter.yaml").read_text())
    # A component can only be rendered in a kustomization that uses it.
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as directory:
        by_agents = {"resources": ["../../deploy/overlays/s3"], "components": ["../../deploy/scale-by-agents"]}
        pathlib.Path(directory, "kustomization.yaml").write_text(yaml.safe_dump(by_agents))
        overlays["s3 with agents"] = render(pathlib.Path(directory))
        images = [{"name": "wal-indexer", "newTag": tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]}]
        searches = {"resources": ["../../deploy/overlays/s3"], "namespace": "wal-indexer", "images": images,
                    "components": ["../../deploy/search-workers", "../../deploy/scrub", "../../deploy/purge"]}
        pathlib.Path(directory, "kustomization.yaml").write_text(yaml.safe_dump(searches))
        overlays["s3 with search workers"] = render(pathlib.Path(directory))
        searches["components"].append("../../deploy/tls")
        pathlib.Path(directory, "kustomization.yaml").write_text(yaml.safe_dump(searches))
        overlays["s3 with TLS"] = render(pathlib.Path(directory))
    if failures:
        return
    for place, documents in overlays.items():
        for document in documents:
            check_schema(place, document)
        for document, pod, container in containers(documents):
            check_container(place, document, pod, container, documents)
    for place in ("local-disk", "s3", "s3 with agents", "s3 with search workers"):
        check_worker(place, overlays[place])
    check_search_workers("s3 with search workers", overlays["s3 with search workers"])
    check_worker("s3 with TLS", overlays["s3 with TLS"])
    check_search_workers("s3 with TLS", overlays["s3 with TLS"])
    for name in ("wal-indexer", "wal-indexer-search"):
        check_tls("s3 with TLS", overlays["s3 with TLS"], name)
    check_autoscaler("s3 with search workers", overlays["s3 with search workers"], adapter)
    check_autoscaler("s3 with search workers", overlays["s3 with search workers"], adapter, "wal-indexer-search")
    check_agent("broker", overlays["broker"], overlays["s3"])
    check_autoscaler("s3", overlays["s3"], adapter)
    check_autoscaler("s3 with agents", overlays["s3 with agents"], adapter)
    check(len(named(overlays["s3 with agents"], "HorizontalPodAutoscaler")["spec"]["metrics"]) == 2, "scale-by-agents")
    check(named(overlays["local-disk"], "HorizontalPodAutoscaler") is None, "local-disk: one disk, one worker")
    monitor = named(overlays["s3"], "ServiceMonitor")["spec"]
    scraped = named(overlays["s3"], "Service")
    check(monitor["selector"]["matchLabels"].items() <= scraped["metadata"]["labels"].items(), "s3: not scraped")
    check({one["port"] for one in monitor["endpoints"]} <= {one["name"] for one in scraped["spec"]["ports"]}, "s3: ports")
    check_image(of(overlays["s3"], "wal-indexer"))
    shown = json.loads(named(overlays["s3"], "ConfigMap", "wal-indexer-dashboard")["data"]["wal-indexer.json"])
    check_dashboard(shown)
    check_rules(named(overlays["s3"], "PrometheusRule")["spec"], shown)
    if not failures:
        print(f"{sum(map(len, overlays.values()))} objects in {len(overlays)} renderings are as they should be")


main()
if failures:
    sys.exit("\n".join(["tests/manifests.py:", *failures]))
