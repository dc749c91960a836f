#!/usr/bin/env bash
# One image for both engines; the first argument shows which one started it.
#
#   --id=… (any option)   a Beam runner: start Beam's own program
#   driver …, executor    Spark on Kubernetes, with its settings in the environment
#   anything else         a command to run: clipmill doctor, python, bash
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
    # Options are numbered from 0 and may contain spaces.
    local options=() name
    for ((number = 0; ; number++)); do
        name=SPARK_JAVA_OPT_$number
        [ -n "${!name+set}" ] || break
        options+=("${!name}")
    done
    # Configuration first: otherwise files of the same name in the jars would take precedence.
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
        echo "nothing to run: pass options (a Beam runner does), 'driver' or 'executor' (Spark on Kubernetes does)," \
            "or a command such as 'clipmill doctor'" >&2
        exit 2
        ;;
    -*) exec "$BEAM_BOOT" "$@" ;;
    driver) shift && run_driver "$@" ;;
    executor) run_executor ;;
    *) exec "$@" ;;
esac
