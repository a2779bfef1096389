#!/usr/bin/env bash
# Make the root folder of an Arm machine for qemu to run: Debian's Python, and the wheels that a board installs.
# Nothing is installed on this machine and root is not needed: apt gets a state of its own.
# Packages come from wherever this machine's apt and pip are told to look.
#
#     sysroot.sh arm64|armhf FOLDER
set -euo pipefail
arch=$1 folder=$2
repository=$(cd "$(dirname "$0")/../.." && pwd)

debs=(libc6 libgcc-s1 libstdc++6 libssl3 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5
    libpython3.11-minimal libpython3.11-stdlib python3.11-minimal)
case $arch in
    arm64)
        wheels=(numpy ai-edge-litert openvino)
        platforms=(--platform=manylinux_2_{17,27,28,31,34,35}_aarch64) # pip takes each literally
        ;;
    armhf) # no wheel of numpy, LiteRT or OpenVINO is made for it
        debs+=(python3-numpy libblas3 liblapack3 libgfortran5)
        wheels=(tflite-runtime==2.14.0)
        platforms=(--platform=manylinux_2_34_armv7l)
        ;;
    *)
        echo "$0: wanted arm64 or armhf, not $arch" >&2
        exit 2
        ;;
esac

rm -rf "$folder"
mkdir -p "$folder"/{apt/lists/partial,apt/cache/archives/partial,debs,wheels,root/site}
folder=$(cd "$folder" && pwd)
touch "$folder/apt/status"
apt=(apt-get -qq -o "APT::Architecture=$arch" -o "APT::Architectures=$arch" -o "Dir::State=$folder/apt"
    -o "Dir::State::status=$folder/apt/status" -o "Dir::Cache=$folder/apt/cache" -o APT::Sandbox::User=root)
# One index of several may be half renewed; whether the others suffice, the download says.
"${apt[@]}" update || echo "$0: going on with the package indexes that could be had" >&2
(cd "$folder/debs" && "${apt[@]}" download "${debs[@]}")
for deb in "$folder"/debs/*.deb; do
    dpkg -x "$deb" "$folder/root"
done
for library in "$folder"/root/usr/lib/*/{blas,lapack}/lib*.so.3; do # update-alternatives would have linked them
    [[ ! -e $library ]] || ln -sr "$library" "${library%/*/*}"
done

python3 -m pip download -qq --disable-pip-version-check --only-binary=:all: --no-deps --python-version 3.11 \
    --implementation cp "${platforms[@]}" -c "$repository/constraints.txt" -d "$folder/wheels" "${wheels[@]}"
for wheel in "$folder"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$folder/root/site"
done
packages=$folder/root/usr/lib/python3/dist-packages
[[ ! -d $packages ]] || mv "$packages"/* "$folder/root/site"
rm -r "$folder"/{apt,debs,wheels}
