# $1 is the size of the program in bytes, which come first on stdin, and $2 its machine; the rest are words for it.
# stdin stays open as long as somebody waits for the answer. Exits with 124 when the program is cut off on the way,
# 125 when no directory takes it, 126 when it cannot run, else as the program does.
set -u
size=$1 machine=$2
shift 2
directory= child= why=
clean() {
  [ -z "$child" ] || kill "$child" 2> /dev/null
  [ -z "$directory" ] || { rm -f "$directory/ha-volume"; rmdir "$directory"; }
  directory=
}
trap clean EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM
here=$(uname -m)
case $machine,$here in
  ,* | x86_64,x86_64 | x86_64,amd64 | aarch64,aarch64 | aarch64,arm64) ;;
  *) echo "the host is $here, the program is for $machine" >&2; exit 126 ;;
esac
need=$((size / 1024 + 1))
for parent in "${TMPDIR:-/tmp}" /var/tmp /run "${HOME:-/root}"; do
  directory=$(mktemp -d "$parent/ha-volume.XXXXXXXX" 2>&1) || { why="$why; $directory"; directory=; continue; }
  program=$directory/ha-volume
  free=$(df -Pk "$directory" 2> /dev/null | { read -r _; read -r _ _ _ free _; echo "${free:-}"; })
  if [ "${free:-$need}" -lt "$need" ] 2> /dev/null; then
    why="$why; $parent: $free KiB free, $need needed"
  elif { printf '#!/bin/sh\n' > "$program" && chmod 700 "$program" && "$program"; } 2> /dev/null; then
    break
  else
    why="$why; $parent: programs may not run there"
  fi
  clean
done
[ -n "$directory" ] || { echo "${why#; }" >&2; exit 125; }
head -c "$size" > "$program"
[ "$(wc -c < "$program")" -eq "$size" ] || { echo "it was cut off on the way" >&2; exit 124; }
# The program runs from an open file, and is gone from the directory before it does: nothing can stay behind.
exec 3< "$program" 4<&0 < /dev/null
clean
why=$(/proc/self/fd/3 --version 2>&1) || { echo "$why" >&2; exit 126; }
/proc/self/fd/3 "$@" 4<&- &
child=$!
# Nobody waits any more when stdin ends.
{ cat <&4; kill "$child"; } > /dev/null 2>&1 3<&- &
watcher=$!
exec 3<&- 4<&-
wait "$child"
code=$?
child=
kill "$watcher" 2> /dev/null
exit "$code"
