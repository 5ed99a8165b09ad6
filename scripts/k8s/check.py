#!/usr/bin/env python3
"""Checks manifests as a cluster would: every field against Kubernetes' own schemas, unknown ones refused.

    pip install kubernetes-validate jsonschema
    scripts/k8s/check.py FILE…

An MPIJob is a resource of the MPI operator; its fields are those of kubeflow.org/v2beta1, and its pods are checked as pods.
"""

import sys

import jsonschema
import kubernetes_validate
import yaml

POD = {"type": "object", "required": ["spec"], "additionalProperties": False, "properties": {"metadata": {}, "spec": {"type": "object"}}}
REPLICA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["template"],
    "properties": {
        "replicas": {"type": "integer", "minimum": 1},
        "restartPolicy": {"enum": ["Never", "OnFailure", "Always", "ExitCode"]},
        "template": POD,
    },
}
MPIJOB = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "kubeflow.org/v2beta1"},
        "kind": {"const": "MPIJob"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["mpiReplicaSpecs"],
            "properties": {
                "slotsPerWorker": {"type": "integer", "minimum": 1},
                "runLauncherAsWorker": {"type": "boolean"},
                "sshAuthMountPath": {"type": "string"},
                "launcherCreationPolicy": {"enum": ["AtStartup", "WaitForWorkersReady"]},
                "mpiImplementation": {"enum": ["OpenMPI", "Intel", "MPICH"]},
                "runPolicy": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "cleanPodPolicy": {"enum": ["None", "Running", "All"]},
                        "activeDeadlineSeconds": {"type": "integer"},
                        "backoffLimit": {"type": "integer"},
                        "ttlSecondsAfterFinished": {"type": "integer"},
                        "suspend": {"type": "boolean"},
                        "managedBy": {"type": "string"},
                        "schedulingPolicy": {"type": "object"},
                    },
                },
                "mpiReplicaSpecs": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["Launcher"],
                    "properties": {"Launcher": REPLICA, "Worker": REPLICA},
                },
            },
        },
    },
}


def check(document):
    """Raises what is wrong with a document; gives its kind and name."""
    version = kubernetes_validate.latest_version()
    if document["apiVersion"].startswith("kubeflow.org/"):
        jsonschema.validate(document, MPIJOB)
        for role, replica in document["spec"]["mpiReplicaSpecs"].items():
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role.lower()}, **replica["template"]}
            kubernetes_validate.validate(pod, version, strict=True)
    else:
        kubernetes_validate.validate(document, version, strict=True)
    return f"{document['kind']} {document['metadata']['name']}"


def main():
    wrong = 0
    for path in sys.argv[1:]:
        with open(path) as file:
            for document in yaml.safe_load_all(file):
                try:
                    print(f"{path}: {check(document)}: valid")
                except Exception as error:  # whatever a checker raises is what is wrong
                    wrong += 1
                    print(f"{path}: {document.get('kind')}: {str(error).splitlines()[0]}")
    sys.exit(wrong > 0 or len(sys.argv) < 2)


if __name__ == "__main__":
    main()
