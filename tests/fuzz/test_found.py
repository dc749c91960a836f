"""Inputs that `make fuzz` found, with what was wrong at the time. Each target reads its own again."""

from __future__ import annotations

import base64
import zlib

import pytest
from targets import TARGETS

DEEP = b"[" * 3000
# of 1 KiB each, compressed
_PAGE_BEYOND_COLUMN = (
    "c-oDVzi-n(6vy9PjFX}aZN*u(<RMEfhP2R%AcWH4rN2@^ATcV4F<4Ow0&3hkzqZ207!iR`)scY#u^_>Qkl0vQ_!lZMm!T2^?=IKiqPF7heCNCOeV"
    "=>xe6FHDD-3at>cOx5uV;!hfk^-c0I}>^0>mWMXCDR!DVMC{!W5=^8P2oVX7R)XX*fLwV+Lr_-nZZBB&Z|1t_I2ab};B?j>5V&>m*?*{$FA3eBRz"
    "0a|KV3TK0BpL;}V*Bj>YJcVG8EjTK3INa|_G`==jYrjJ5;HtUTboFH^Ir&s{n+zi$mkLrRBo1NlzDvlmb!F88ZYMu`2;nw|)$9l~&oxGFxz!h1i0"
    "Oq)(90XW~^@36J7QIX|mrh<DRM2if!Eh*AhGRM&7{p3a4!2RHKBMOSVBQW(rt&nF^@dx9m!ScU4Ug;aesb>}*I8w)W1(C@`N;ut>p7$5?Wepisbq"
    "3bV_Cc0l6%t#j%#Pp_ix_0I?TQOieHfBN)xHna9FM(wz1U2WyB^fC=-@Sh)eRNStWg2Nf%_drmVH0KaI4wf*9bUTGvj>x~4=cnB0maZMk@3Jt+I("
    "y}3&mN`6P_RuS(?dqr}V|2maQer*V+QvQdBl2^XneW3hR@Jo8E=%6cdPTbXz&n?utnx@XrgPjZO(UZ8bH64WEbUlhT+PPLE+N4jBn=8y*oSAj<bT"
    "Q@K{7!kU((nHVLF~Rx"
)
_COLUMN_METADATA = (
    "c-nPTO>fgc5FI;?Q<X?G6&u--54qIpfrb>3s8r#w4vlGPAc-iU+)QG*LHQyvq(%IM3UNS!6Q`;-u87_c9N@%HKp<}X2P9_4i4#cJU3+JC-n@A`a#"
    "H5ib*8XIoM%7YoSw@wnZYuE1OO)t*ae(FU%hx9GZ3}JRHhm^c~v^pq{Bo4F%j{|AjyF7Wt^w)K73ZkEK!U)>0ZbCFH@AlTCmMBlCF=RzQ?9@Imnj"
    "6`TN`3v-5xJax}>y78xHU;EF*4^os}shMa(C8S=?RUDc_E{wxccI;bDGZHFmvMb@Itw&S^Iv-k>n4~~3y5ZFr3@efvD*FfGZy1wHLP?)-#7YB-_w"
    "3-87R1x5q+j84(#~<O7if-t66ATvDv!E{Nt3jQBpJ6<CEa5UY&4uY6&q|k3dQPS*&eD-YVmpy=nO`OIr8KY8^II~@yFs_4n~iTo^sgmc<}cZNFHg"
    "6Ao?KG_y$Atw@=GMCm<zapZfJ2{t=_I}2Hn?=BbUTD;uhz;!h>;>^C7o9UgX^41&_`w1eAnP;C!17COZ#Is~-BrJ4m{L##X6FhePq+BB-chRYJdE"
    "7dv$dTiZg4SH_p{D|-a8!=zvkzun5*uVu)u3w-Y3xZW*$Br>cg^pgm_$H%4ZmcL(Xw1nRk`B%gIA|+YgB!41$xPPzOCAUQQiXbbH#5%t|5*H>_Dk"
    "S>Gzxt{EPPSp+eL6{@_%+Z{J*WTZvFoqZd%ZQM-|r4nPu%{X+3ln*XVaPVx}L``J6N!TKejUdoBRROYu^("
)
_NO_ROW_GROUPS = (
    "c-oaz&1(}u6n`_>tcfm?7G~ImJuG6E6#8Kc2_o_E5~B$kYyw5_7Pm_bR2#R^6i<3n|An3e@g!9$p1pYRP%7js6r>l$gQwC$E6(h0Hwj6RzQfMUoA"
    "-Vn`<7k6+8k4u#pc=To%P)_IYt?b1EfFA9$Bg902%<)Eze!DoTle2yA0SkyT~@Tw%?yOMQ4hsOf|DKt@T&w1E;Yu2oaNI04feKLMVj1>xY|f&*j8"
    "nfR{iJG+aa8uSY)))gG^&IKI~t#~mEfBeD>R5UppK$#%B?zDy37jZX%oPRP{#_3a>O$_f!a8>ES&6KB{B4c(;J1@`&f!P)?B0)^c{6A|>WiC82z)"
    "@Nckdm^=w%Yd$~I``cNb*2E*CaA8o-L>`v+%hGxA`-N@1Y9-1WSWryHDv@POydgQBK!}r@7am}kJ6Zuvtm@bNr@%Lbwf35D&^P$TnWJioe#ZB_zP"
    "-xsl885F|ScXlY#~m+43RA6+6NAW1`3&VTkfqgl`c0i()@h%xrIR!{VtF52M9X-X(mG*n4q%BYwI$jTSFy_;<>wkj38!^`@?2t#<p)m0))IZ!#+*"
    "+dvUj4B{qY2lEZQj@ZD0e}(xx;>Wny6cEdPqPJqO%~zsx<*5L@EH=eL(NA{dvxrgn^{u-BUPbbVl5%vth=HDbRo>q~bnsdT9)VOBeZ3{@mmcz$YR"
    "hh^ioF(pe-(7ARrek}cH7fVt2JHsyp@ji#PwF2D-W&t%*>^kIb%wEzw#6QDc;?J_*?x0?OD)a"
)


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b85decode(text))


FOUND = {
    "nesting beyond Python's recursion limit ended every reader of JSON": {
        name: DEEP
        for name in ("lock", "attempt", "job", "plan", "failures", "index-manifest", "exported", "provenance", "labels")
    },
    "a value of another type ended the reader, or one that came later": {
        "lock": b"\0\4",
        "job": b"\x02\x14",
        "plan": b"\0\0",
        "manifest": b"\0\x10\x01",
        "index-manifest": b"+\xf6",
        "exported": b"\x02\x08",
    },
    "the footer of another writer has no list of objects": {"provenance": b"\n\x00\x01\x02\x03"},
    "a line of failures that is no object": {"failures": b"[]"},
    "a name of 5,000 characters is longer than any file's": {"model-name": b"9" * 5000, "provenance": b"\x14\x8c"},
    "a user without a home directory": {"model-name": b"ViT-B-32::~nobody-here/w.pt"},
    "a null character in a name of a home": {"model-name": b"~Q_\x12\x00\x96$"},
    "a file of weights without an ending lost its last slash": {"model-name": b"ViT-B-32::https]:/"},
    "a plan with an unknown field": {"plan": b'{"name": "00000-0a", "kind": "csv", "paths": ["a"], "line_": 1}'},
    "a page header claimed 1.2 GiB, for which Arrow made room": {"parquet": _unpacked(_PAGE_BEYOND_COLUMN)},
    "pyarrow ends the process where a column's metadata is damaged": {"parquet": _unpacked(_COLUMN_METADATA)},
    "rows in the footer and in no row group were lost silently": {"parquet": _unpacked(_NO_ROW_GROUPS)},
    "wildcards in a row took exponential time": {"glob": b"**a***a*a*a\xff\xff*??"},
    "a value in a traceback that looks like our note about options": {
        "texts": b"with its options, for clipmill: WyJhIl0="
    },
}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param(name, data, id=f"{name}-{number}")
        for number, one in enumerate(FOUND.values())
        for name, data in one.items()
    ],
)
def test_what_was_found(name: str, data: bytes) -> None:
    TARGETS[name].check(data)
