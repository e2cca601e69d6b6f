package handler

import (
	"fmt"
	"math"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
)

var variable = regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]+)`)

// variables returns the colors of a style in light and in dark. A later rule wins.
func variables(style string) (light, dark map[string]string) {
	light, dark = map[string]string{}, map[string]string{}
	for _, rule := range regexp.MustCompile(`(@media \(prefers-color-scheme: dark\) \{\s*)?:root \{([^}]*)\}`).FindAllStringSubmatch(style, -1) {
		for _, v := range variable.FindAllStringSubmatch(rule[2], -1) {
			if rule[1] == "" {
				light[v[1]] = v[2]
			} else {
				dark[v[1]] = v[2]
			}
		}
	}
	return light, dark
}

// wcagContrast is computed anew, from the definition in WCAG 2.2.
func wcagContrast(t *testing.T, a, b string) float64 {
	t.Helper()
	luminance := func(hex string) (sum float64) {
		if len(hex) == 4 {
			hex = "#" + hex[1:2] + hex[1:2] + hex[2:3] + hex[2:3] + hex[3:4] + hex[3:4]
		}
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			n, err := strconv.ParseUint(hex[1+2*i:3+2*i], 16, 8)
			if err != nil {
				t.Fatalf("%q is no color", hex)
			}
			part := float64(n) / 255
			if part <= 0.04045 {
				part /= 12.92
			} else {
				part = math.Pow((part+0.055)/1.055, 2.4)
			}
			sum += weight * part
		}
		return sum
	}
	x, y := luminance(a), luminance(b)
	return (math.Max(x, y) + 0.05) / (math.Min(x, y) + 0.05)
}

func servedStyle(appColor string) string {
	recorder := httptest.NewRecorder()
	c := echo.New().NewContext(httptest.NewRequest("GET", "/", nil), recorder)
	_ = serveStyle(appColor)(&request{Context: c})
	return recorder.Body.String()
}

// Whatever color an app has, its links and buttons can be read in both schemes, and one
// that can be read already stays as it is.
func TestAppColorIsReadable(t *testing.T) {
	colors := []string{"", "#4A154B", "#767676", "#777777"}
	for n := range 16 * 16 * 16 {
		colors = append(colors, fmt.Sprintf("#%02x%02x%02x", (n>>8)*17, (n>>4&15)*17, (n&15)*17))
	}
	kept := 0
	for _, appColor := range colors {
		if t.Failed() {
			return // the first one says enough
		}
		light, dark := variables(servedStyle(appColor))
		for scheme, v := range map[string]map[string]string{"light": light, "dark": dark} {
			for _, pair := range [][2]string{{"accent", "ground"}, {"accent", "card"}, {"on-brand", "brand"}} {
				if got := wcagContrast(t, v[pair[0]], v[pair[1]]); got < 4.5 {
					t.Errorf("APP_COLOR %s, %s: --%s on --%s has a contrast of %.2f, want 4.5", appColor, scheme, pair[0], pair[1], got)
				}
			}
			if appColor != "" && v["brand"] != strings.ToLower(appColor) {
				t.Errorf("APP_COLOR %s, %s: got buttons of %s", appColor, scheme, v["brand"])
			}
			if readable := appColor != "" && wcagContrast(t, appColor, v["ground"]) >= 4.6 && wcagContrast(t, appColor, v["card"]) >= 4.6; readable {
				kept++
				if v["accent"] != appColor && appColor != "#4A154B" {
					t.Errorf("APP_COLOR %s, %s: got %s, though it can be read", appColor, scheme, v["accent"])
				}
			}
		}
	}
	if kept < 1000 {
		t.Errorf("%d colors can be read as they are, want many", kept)
	}
}
