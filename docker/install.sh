#!/usr/bin/env bash
# Install clipmill with all engines and runtimes into the `python` of PATH, and embed with it.
#
#   BEAM_VERSION=… SPARK_VERSION=… [TORCH_INDEX=URL] docker/install.sh cpu|gpu WHEEL SPARK_HOME
#
# cpu and gpu differ only in ONNX Runtime's build. TORCH_INDEX is the package index for torch: PyPI's builds run with
# and without a GPU. SPARK_HOME is a folder that becomes a Spark distribution for Kubernetes.
set -euo pipefail

die() {
    echo "install.sh: $1" >&2
    exit 2
}

[ $# -eq 3 ] || die "expected cpu or gpu, a wheel, and the folder for Spark; got $# arguments: $*"
flavour=$1 wheel=$2 spark_home=$3
case $flavour in
    cpu) extras=all ;;
    gpu) extras=all-gpu ;;
    *) die "the first argument must be cpu or gpu, got '$flavour'" ;;
esac
[ -f "$wheel" ] || die "there is no wheel '$wheel'"
[ -n "${BEAM_VERSION:-}" ] || die "BEAM_VERSION is not set: workers need the Beam version that jobs are submitted with"
[ -n "${SPARK_VERSION:-}" ] || die "SPARK_VERSION is not set: executors need the Spark version of their driver"

version_of() {
    python -c 'import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))' "$1"
}

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_QUIET=${PIP_QUIET:-1}
if [ -n "${TORCH_INDEX:-}" ]; then
    # Both from the same index: torchvision rejects a torch build of another flavour.
    python -m pip install --index-url "$TORCH_INDEX" torch torchvision
    torch=$(version_of torch)
fi
python -m pip install "${wheel}[${extras}]" "apache-beam==$BEAM_VERSION" "pyspark==$SPARK_VERSION"
python -m pip check
if [ -n "${torch:-}" ] && [ "$(version_of torch)" != "$torch" ]; then
    die "torch $torch of $TORCH_INDEX is older than clipmill needs, and was replaced by $(version_of torch) of PyPI"
fi

# pyspark's package contains Spark's jars and scripts in its own folder. On Kubernetes, Spark mounts /opt/spark/conf, so
# SPARK_HOME is a folder of links rather than one link.
pyspark=$(python -c 'import importlib.util; print(*importlib.util.find_spec("pyspark").submodule_search_locations)')
mkdir -p "$spark_home"
for part in bin jars python sbin; do
    [ -d "$pyspark/$part" ] || die "pyspark $SPARK_VERSION has no folder '$part' in $pyspark"
    ln -sfn "$pyspark/$part" "$spark_home/$part"
done

# Check that both engines' modules import and that a model runs; the files that this writes stay out of the image.
python -c 'import clipmill.transforms, clipmill.udfs'
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch CLIPMILL_CACHE=$scratch/cache
python -c 'import sys; from PIL import Image; Image.new("RGB", (64, 48), "red").save(sys.argv[1])' "$scratch/red.jpg"
clipmill embed --text "a red square" --image "$scratch/red.jpg" --model demo > "$scratch/vectors"
[ "$(wc -l < "$scratch/vectors")" -ge 2 ] || die "clipmill embed did not print a vector for each of a text and an image"
echo "installed clipmill $(version_of clipmill)[$extras] with Beam $BEAM_VERSION, Spark $SPARK_VERSION, torch $(version_of torch)"
