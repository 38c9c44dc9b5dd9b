#!/bin/sh
# MLflow's server with a login: user `everest`, password EVEREST_PASSWORD. Everything it keeps is in $STORE.
#   EVEREST_PASSWORD=... STORE=/store docker/mlflow-server.sh --host 0.0.0.0 --port 5000
set -eu
umask 077
: "${EVEREST_PASSWORD:?set it to a password of at least 12 characters (docker/.env)}"
STORE=${STORE:-/store}
[ "${#EVEREST_PASSWORD}" -ge 12 ] || { echo "EVEREST_PASSWORD has fewer than 12 characters, which MLflow refuses." >&2; exit 2; }
# Signs sessions; made once.
[ -s "$STORE/session-key" ] || python -c 'import secrets; print(secrets.token_hex(32))' > "$STORE/session-key"
cat > "$STORE/login.ini" <<END
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///$STORE/login.db
admin_username = everest
admin_password = $EVEREST_PASSWORD
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END
export MLFLOW_AUTH_CONFIG_PATH="$STORE/login.ini"
export MLFLOW_FLASK_SERVER_SECRET_KEY="$(cat "$STORE/session-key")"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
unset EVEREST_PASSWORD
exec mlflow server --app-name basic-auth --backend-store-uri "sqlite:///$STORE/mlflow.db" \
  --artifacts-destination "$STORE/artifacts" "$@"
