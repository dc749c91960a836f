#!/usr/bin/env bash
# One image for both engines; the first argument tells which one started it.
#
#   --id=… (any option)   a Beam runner: Beam's own program goes on
#   driver …, executor    Spark on Kubernetes, with its settings in the environment
#   anything else         is run as it stands: clipmill doctor, python, bash
set -euo pipefail

BEAM_BOOT=${BEAM_BOOT:-/opt/apache/beam/boot}
SPARK_HOME=${SPARK_HOME:-/opt/spark}

run_driver() {
    exec tini -s -- "$SPARK_HOME/bin/spark-submit" \
        --conf "spark.driver.bindAddress=${SPARK_DRIVER_BIND_ADDRESS:?Spark sets it in the pods of drivers}" \
        --deploy-mode client "$@"
}

run_executor() {
    local memory=${SPARK_EXECUTOR_MEMORY:?Spark sets it in the pods of executors}
    # Options are numbered from 0 and may hold spaces.
    local options=() name
    for ((number = 0; ; number++)); do
        name=SPARK_JAVA_OPT_$number
        [ -n "${!name+set}" ] || break
        options+=("${!name}")
    done
    # Configuration first, or files of the same name in the jars would win over it.
    local classpath=${SPARK_CONF_DIR:-$SPARK_HOME/conf}:${HADOOP_CONF_DIR:+$HADOOP_CONF_DIR:}
    classpath+=${SPARK_CLASSPATH:+$SPARK_CLASSPATH:}$SPARK_HOME/jars/*
    exec tini -s -- "${JAVA_HOME:+$JAVA_HOME/bin/}java" "${options[@]}" "-Xms$memory" "-Xmx$memory" -cp "$classpath" \
        org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
        --driver-url "$SPARK_DRIVER_URL" \
        --executor-id "$SPARK_EXECUTOR_ID" \
        --cores "$SPARK_EXECUTOR_CORES" \
        --app-id "$SPARK_APPLICATION_ID" \
        --hostname "$SPARK_EXECUTOR_POD_IP" \
        --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" \
        --podName "$SPARK_EXECUTOR_POD_NAME"
}

case ${1:-} in
    "")
        echo "nothing to run: a Beam runner gives options, Spark on Kubernetes 'driver' or 'executor', and any other" \
            "command is run as it stands, such as 'clipmill doctor'" >&2
        exit 2
        ;;
    -*) exec "$BEAM_BOOT" "$@" ;;
    driver) shift && run_driver "$@" ;;
    executor) run_executor ;;
    *) exec "$@" ;;
esac
