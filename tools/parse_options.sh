# Sourced with the caller's arguments: `--name value` sets the variable `name`, which must already exist.
# shellcheck shell=bash
# As in WeNet and Kaldi, an option is two arguments (--name=value is refused), dashes in a name become underscores,
# and a variable with the value true or false accepts only these two. --help prints the caller's comments and the
# variables between its line "# options" and the line that sources this file. Positional arguments stay in "$@". The
# given options, except --stage, --stop_stage and --force, are kept in given_options.

given_options=

while [ $# -gt 0 ]; do
  case $1 in
    --help | -h)
      awk '
        /^# options/ { listing = 1; print ""; next }
        listing && /parse_options\.sh/ { exit }
        !listing && /^#( |$)/ { sub(/^# ?/, ""); print; next }
        listing && match($0, /^[a-zA-Z_0-9]+=/) {
          name = substr($0, 1, RLENGTH - 1)
          rest = substr($0, RLENGTH + 1)
          if (substr(rest, 1, 1) == "\"") {
            end = index(substr(rest, 2), "\"")
            value = substr(rest, 2, end - 1)
            rest = substr(rest, end + 2)
          } else {
            end = match(rest, /[ \t]|$/)
            value = substr(rest, 1, end - 1)
            rest = substr(rest, end)
          }
          sub(/^[ \t]*#?[ \t]*/, "", rest)
          printf "  --%-15s %s%s\n", name, rest, value == "" ? "" : " [" value "]"
        }' "$0"
      exit 0
      ;;
    --*=*)
      echo "$0: invalid option $1: the value is an argument of its own, --name value" >&2
      exit 1
      ;;
    --?*)
      _option=${1#--}
      _option=${_option//-/_}
      if ! [[ $_option =~ ^[a-zA-Z][a-zA-Z0-9_]*$ ]] || [ -z "${!_option+set}" ]; then
        echo "$0: invalid option $1 (--help lists the options)" >&2
        exit 1
      fi
      if [ $# -lt 2 ]; then
        echo "$0: option $1 needs a value" >&2
        exit 1
      fi
      if [[ ${!_option} =~ ^(true|false)$ && ! $2 =~ ^(true|false)$ ]]; then
        echo "$0: option $1 takes true or false, not '$2'" >&2
        exit 1
      fi
      printf -v "$_option" '%s' "$2"
      case $_option in
        stage | stop_stage | force) ;;
        *) printf -v given_options '%s %s %q' "$given_options" "$1" "$2" ;;
      esac
      shift 2
      ;;
    *) break ;;
  esac
done
